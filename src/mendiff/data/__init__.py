"""Input: images, layouts of data sets, lists, labels and checks."""
