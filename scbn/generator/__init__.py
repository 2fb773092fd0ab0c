"""The tree-structured generator and the stages that it is made of."""
