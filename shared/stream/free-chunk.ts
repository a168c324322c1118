/**
 * Frees the memory of a chunk that came from a socket and that nobody reads any more: it is empty afterwards.
 * Left to the collector, 64 KiB at a time look like a heap that grows fast, and V8 marks it again and again: that
 * took half of the CPU of an upload. A chunk that is only a part of its memory is left alone, since other parts
 * may be in use.
 */
export function freeChunk({ buffer, byteLength }: Buffer): void {
  if (byteLength > 0 && buffer instanceof ArrayBuffer && buffer.byteLength === byteLength)
    buffer.transfer(0)
}
