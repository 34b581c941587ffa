"""What figures, pages and tables share; knows nothing of the measures."""
