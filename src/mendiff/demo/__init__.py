"""The demo data set: rendered parts with and without defects."""
