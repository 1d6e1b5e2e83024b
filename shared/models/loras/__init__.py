"""LoRAs: the library of uploaded and fetched ones, what a file's header tells, and the operator's folder."""
