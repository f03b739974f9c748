"""Reading rows, splitting them, caching what was made of them, and batches that a resumed run goes on with."""
