"""``scripts/demo``: the appliance, a PACS and a scanner on one machine, on real images."""
