"""What the measuring commands share: checked output files, intervals, plots, and the page that holds them."""
