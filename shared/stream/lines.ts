/** What is left is held for as long as nothing comes, and with it all that it is a part of. */
const nothing = Buffer.alloc(0)

/**
 * The lines of a stream, without their ends.
 * @throws RangeError for a line that is longer than `maxBytes`, or that was cut; what the stream throws
 */
export async function* linesOf(
  chunks: AsyncIterable<Buffer>,
  maxBytes: number,
): AsyncGenerator<string> {
  let rest = nothing
  for await (const chunk of chunks) {
    rest = Buffer.concat([rest, chunk])
    let from = 0
    for (let end = rest.indexOf(10); end !== -1; end = rest.indexOf(10, from)) {
      yield rest.toString('utf8', from, end)
      from = end + 1
    }
    rest = from === rest.length ? nothing : rest.subarray(from)
    if (rest.length > maxBytes) throw new RangeError(`a line is longer than ${maxBytes} bytes`)
  }
  if (rest.length > 0) throw new RangeError('the last line was cut')
}
