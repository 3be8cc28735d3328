"""micro-r2: micro-r1's size, on problems of graded difficulty, with answers that hold a working."""
