"""What every command writes: results files, figures, pictures, pages and progress."""
