"""What serving costs and what a server holds, measured from outside over HTTP."""
