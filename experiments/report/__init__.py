"""Reports on finished runs: what is read from them, the statistics, the charts and the page."""
