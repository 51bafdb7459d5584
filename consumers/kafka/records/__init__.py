"""Records: fetched batches unpacked within memory limits, and their records as those of the pipeline.

Pure but for the codecs; it opens no connection.
"""
