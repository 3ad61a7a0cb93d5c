"""Record files out of what people have: folders of images, ImageNet's archives, CIFAR's."""
