"""A few runs of the script that shows that workers train what one worker trains with the whole batch."""

import pytest

from tests.distributed.equality import main


@pytest.mark.parametrize("runs, workers, servers, kvstore", [(3, 2, 1, "dist_sync"), (1, 3, 2, "dist_sync"),
                                                             (1, 2, 2, "dist_device_sync")])
def test_workers_equal_one_worker(runs, workers, servers, kvstore, capsys):
    status = main(["--runs", str(runs), "-n", str(workers), "-s", str(servers), "--kvstore", kvstore])
    assert status == 0, capsys.readouterr().out
