"""A demo data set that draws its own parts."""
