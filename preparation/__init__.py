"""Event logs and catalogues in, the parquet files that training reads out; what was fitted on the way is kept."""
