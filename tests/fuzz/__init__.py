"""Hostile input: what the network, a data set and the drop folder can be given, by the hundred thousand."""
