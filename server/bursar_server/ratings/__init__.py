"""Ratings: what calls cost, computed again after a price was corrected.

It owns the rows of `reratings` and `rerating_lines`: what would change, who accepted it and why,
and what is still to be posted. It refuses to post anything that was not planned first, and to
change an entry: differences are corrections, posted by who lends (`allowances`), in bounded steps.
"""
