"""One inference job, top to bottom: load, infer, read out, write."""
