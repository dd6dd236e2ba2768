"""From clicks in parquet to a checkpoint: data, model, trainer; the only room besides export that uses torch."""
