"""The measurements: each module measures some rows of the table with servers that it starts for that."""
