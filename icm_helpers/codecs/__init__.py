"""Codecs: networks that answer the CompressAI contract, and what turns them into bytes."""
