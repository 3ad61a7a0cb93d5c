"""Every number of docs/scaling.md, from the recipe, the network and the rates that other pages give.

`python tests/docs/test_scaling.py` rewrites the page's tables; its sentences are held to the same numbers.
"""

import functools
from pathlib import Path

import numpy as np

from dso_nas.architecture.spaces import space_of
from dso_nas.data.alternation import steps_per_epoch, taken
from dso_nas.data.splits import choose_weights
from dso_nas.recipes import load_recipe
from dso_nas.reporting.tables import markdown_table
from dso_nas.stages.run import weights_of
from dso_nas.stages.spaces import make_space

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "scaling.md"

# ILSVRC 2012; its classes differ in size, which a split's total does not depend on.
IMAGES = 1281167
# The paper, section 4.3: hours of each stage on 8 GPUs ("about 18 hours", "about 0.75 days").
PAPER_HOURS = {"pretrain": 18, "search": 18}
PAPER_GPUS = 8
# Seconds of the Python thread for the update of one array on one device; the page says how it was measured.
UPDATE = 35e-6
GPUS, HOSTS, PER_HOST = (1, 8, 64), 8, 8
LINKS = (1, 10, 100)
FLOAT = 4

RECIPE = load_recipe("imagenet-share")
SPACE = space_of(RECIPE)


def numbers(parameters):
    return sum(int(np.prod(parameter.shape)) for parameter in parameters)


def jpeg_rate():
    row = next(line for line in (DOCS / "own-data.md").read_text().splitlines() if line.startswith("| 341x256"))
    return int(row.split("|")[2])


@functools.lru_cache(maxsize=None)
def steps():
    """Weight steps of a pre-training epoch, and weight and lambda steps of one of the search."""
    in_weights = int(choose_weights(np.arange(IMAGES) % 1000, 0, RECIPE.data.ratio).sum())
    weights = in_weights // RECIPE.pretrain.batch_size
    lambdas = (IMAGES - in_weights) // RECIPE.search.batch_size
    whole = steps_per_epoch(in_weights // RECIPE.search.batch_size, lambdas, *RECIPE.search.ratio)
    return weights, taken(whole, *RECIPE.search.ratio)


def stages():
    """(name, epochs, weight steps, lambda steps an epoch, batch)."""
    pretraining, searching = steps()
    return [("pre-training", RECIPE.pretrain.epochs, pretraining, 0, RECIPE.pretrain.batch_size),
            ("search", RECIPE.search.epochs, *searching, RECIPE.search.batch_size)]


@functools.lru_cache(maxsize=None)
def sent():
    """What is summed over workers: (name, when, arrays, numbers, times in both stages)."""
    network = make_space(RECIPE.network, RECIPE.network.classes, SPACE.spec.image_shape).supernet(None)
    weights = [parameter for parameter in weights_of(network) if parameter.grad_req != "null"]
    statistics = list(network.collect_params(".*running_(mean|var)").values())
    lambdas = list(network.lambdas.values())
    rows = stages()
    return [("weights' gradients", "weight step", len(weights), numbers(weights), sum(e * w for _, e, w, _, _ in rows)),
            ("lambdas' gradients", "lambda step", len(lambdas), numbers(lambdas), sum(e * x for _, e, _, x, _ in rows)),
            ("BatchNorm statistics", "epoch", len(statistics), numbers(statistics), sum(row[1] for row in rows))]


def pushed():
    """Bytes of all weights' gradients."""
    return sent()[0][3] * FLOAT


def paper_rate():
    """Images a second of 8 GPUs that follow from the paper's hours of pre-training."""
    _, epochs, weight_steps, _, batch = stages()[0]
    return epochs * weight_steps * batch / (PAPER_HOURS["pretrain"] * 3600)


def crossing(workers, servers):
    """Bytes that leave the busiest of the hosts in a weight step; what stays on a host crosses no link."""
    own = workers // HOSTS
    if servers == 1:
        return (workers - own) * pushed()
    assert servers == workers
    return 2 * own * pushed() * (HOSTS - 1) / HOSTS


def table_steps():
    rows = [(name, str(epochs), f"{w:,}", f"{x:,}", f"{epochs * (w + x):,}", f"{epochs * (w + x) * batch / 1e6:.1f}")
            for name, epochs, w, x, batch in stages()]
    head = ("stage", "epochs", "weight steps an epoch", "lambda steps an epoch", "steps", "million images")
    return markdown_table(head, rows)


def table_wire():
    rows = [(what, when, f"{arrays:,}", f"{count:,}", f"{count * FLOAT:,}", f"{times:,}")
            for what, when, arrays, count, times in sent()]
    head = ("what", "once a", "arrays", "numbers", "bytes, each way", "times in both stages")
    return markdown_table(head, rows, "llrrrr")


def table_devices():
    last = SPACE.spec.stage_size(SPACE.spec.stages)
    rows = []
    for gpus in GPUS:
        images = -(-RECIPE.search.batch_size // gpus)
        plans = [SPACE.plan(SPACE.spec, None, images, kind, None).total_mb for kind in ("block", "none")]
        values = images * last[0] * last[1]
        rows.append((str(gpus), str(images), *(f"{plan:,.0f} MB" for plan in plans), f"{values:,}"))
    head = ("GPUs", "images on each", "memory, `block`", "memory, `none`", "values a channel in stage 4")
    return markdown_table(head, rows, "rrrrr")


def table_time():
    rows = []
    for gpus in GPUS:
        rate = paper_rate() * gpus / PAPER_GPUS
        updates = sent()[0][2] * min(gpus, PER_HOST)
        hours = sum(PAPER_HOURS.values()) * PAPER_GPUS / gpus
        rows.append((str(gpus), f"{hours:,.1f} h", f"{RECIPE.search.batch_size / rate:.3f} s", f"{updates:,}",
                     f"{updates * UPDATE:.3f} s", f"{rate / jpeg_rate():.1f}"))
    head = ("GPUs", "both stages, if ideal", "step, if ideal", "updates a process", "updates take",
            "cores that decode, all hosts")
    return markdown_table(head, rows, "rrrrrr")


def table_links():
    rows = []
    for workers, servers in ((8, 1), (8, 8), (64, 64)):
        size = crossing(workers, servers)
        times = (f"{size * 8 / (link * 1e9):.3f} s" for link in LINKS)
        rows.append((f"`-n {workers} -s {servers}`", f"{size / 1e6:,.0f} MB", *times))
    head = ("on 8 hosts", "out of the busiest host", *(f"at {link} Gb/s" for link in LINKS))
    return markdown_table(head, rows)


TABLES = {"steps": table_steps, "wire": table_wire, "devices": table_devices, "time": table_time, "links": table_links}


def sentences():
    """What the text between the tables says in numbers."""
    total = SPACE.cost(SPACE.spec).total
    step = RECIPE.search.batch_size / paper_rate() * PAPER_GPUS / GPUS[-1]
    last = SPACE.spec.stage_size(SPACE.spec.stages)
    _, _, arrays, _, times = sent()[0]
    half = crossing(8, 8) * 8 / step / 1e9
    return [
        f"{total.parameters:,} weights of convolutions", f"{total.multiply_adds / 1e6:,.0f} million multiply-adds",
        f"a batch of {RECIPE.pretrain.batch_size} is left out",
        f"{paper_rate():.0f} images a second", f"{paper_rate() / 8:.0f} on each GPU",
        f"{pushed() * times / 1e12:.1f} TB each way", f"{step / (arrays * PER_HOST) * 1e6:.0f} microseconds",
        f"{arrays * UPDATE:.3f} s", f"{half:.0f} Gb/s", f"{last[0]}x{last[1]}",
        f"{jpeg_rate()} training images a second", f"--batch-size {RECIPE.search.batch_size * GPUS[-1] // PAPER_GPUS}",
        f"{paper_rate() / jpeg_rate() * 10:.0f} cores",
        f"{steps()[1][1] * RECIPE.search.epochs:,} lambda steps",
        f"{steps()[1][1] * RECIPE.search.epochs * PAPER_GPUS // GPUS[-1]:,} lambda steps",
    ]


def filled(text):
    for name, table in TABLES.items():
        before, rest = text.split(f"<!-- {name} -->")
        _, after = rest.split(f"<!-- end of {name} -->")
        text = f"{before}<!-- {name} -->\n{table()}\n<!-- end of {name} -->{after}"
    return text


def test_tables_are_what_the_package_computes():
    text = PAGE.read_text()
    assert filled(text) == text, "python tests/docs/test_scaling.py rewrites the tables"


def test_sentences_are_what_the_package_computes():
    text = " ".join(PAGE.read_text().split())
    assert [sentence for sentence in sentences() if sentence not in text] == []


def test_the_order_of_what_stops_scaling():
    """What the list of the page says in words, by the same numbers."""
    step = RECIPE.search.batch_size / paper_rate()
    ideal, updates = step * PAPER_GPUS / GPUS[-1], sent()[0][2] * UPDATE
    seconds = {link: crossing(8, 8) * 8 / (link * 1e9) for link in LINKS}
    assert seconds[1] > step > PER_HOST * updates > step / 2
    assert PER_HOST * updates > seconds[10] > ideal > updates
    assert crossing(64, 64) == PER_HOST * crossing(8, 8)
    assert crossing(64, 64) * 8 / 100e9 < ideal


def test_the_networks_weights_are_the_cost_models():
    """The cost model's weights, and what it leaves out: shifts, scales and the bias of the last layer."""
    network = make_space(RECIPE.network, RECIPE.network.classes, SPACE.spec.image_shape).supernet(None)
    learned = [p for p in weights_of(network) if p.grad_req != "null" and p.name.endswith("weight")]
    assert numbers(learned) == SPACE.cost(SPACE.spec).total.parameters


def test_the_page_is_short():
    assert len(PAGE.read_text().splitlines()) < 120


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
    print("\n".join(sentences()))
