"""How much hints cost models that a run of Seirênes did not train: the same problems, the same hints."""
