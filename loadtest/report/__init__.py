"""What every command writes: results files, figures, pictures, pages, and what is seen meanwhile."""
