"""Training, comparisons and benchmarks built on dstjax."""
