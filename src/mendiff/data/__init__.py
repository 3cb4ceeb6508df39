"""From files to samples: images, the layouts of data sets, lists, labels, checks."""
