"""The contract: messages and services generated from proto/bursar/v1; never edited."""
