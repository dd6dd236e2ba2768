"""The log of served requests: what a ranking was made from, so that training can learn from what serving saw.

Parquet files, a row for each user that was ranked; sampled, in any number of files, in any order. A click belongs to
a request if its user clicks one of the candidates soon enough after `time`; the log does not hold clicks itself.

    request_id   text, the same for all users of one request
    time         when the answer was made, UTC
    model, version   what scored it
    user_id
    history      item ids as they were used, oldest first, without padding, already cut to what the model takes
    candidates   item ids in the order of the request, every one that was scored
    likes_level, views_level   of each candidate, as they were used
    scores       of each candidate
    degraded     as in the answer: "history", "items", "scores"; empty where nothing was lacking
"""

import pyarrow as pa

REQUEST_LOG = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("time", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("user_id", pa.int64(), nullable=False),
        pa.field("history", pa.list_(pa.int64()), nullable=False),
        pa.field("candidates", pa.list_(pa.int64()), nullable=False),
        pa.field("likes_level", pa.list_(pa.int8()), nullable=False),
        pa.field("views_level", pa.list_(pa.int8()), nullable=False),
        pa.field("scores", pa.list_(pa.float32()), nullable=False),
        pa.field("degraded", pa.list_(pa.string()), nullable=False),
    ]
)
