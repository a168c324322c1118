import assert from 'node:assert/strict'
import { Readable } from 'node:stream'
import { test } from 'node:test'
import fc from 'fast-check'
import { linesOf } from '../../../shared/stream/lines.ts'

async function read(chunks: readonly (string | Buffer)[], maxBytes = 100): Promise<string[]> {
  const lines: string[] = []
  for await (const line of linesOf(
    Readable.from(chunks.map((chunk) => Buffer.from(chunk))),
    maxBytes,
  ))
    lines.push(line)
  return lines
}

test('lines are the same however they are cut into chunks', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.stringMatching(/^[^\n]{0,20}$/)),
      fc.array(fc.nat(200)),
      async (lines, cuts) => {
        const text = Buffer.from(lines.map((line) => `${line}\n`).join(''))
        const ends = [...cuts, text.length].toSorted((one, other) => one - other)
        const chunks = ends.map((end, index) => text.subarray(ends[index - 1] ?? 0, end))
        assert.deepEqual(await read(chunks), lines)
      },
    ),
    { numRuns: 50 },
  )
})

test('a line that is cut, or too long, is an error', async () => {
  assert.deepEqual(await read(['a\n', 'b\n']), ['a', 'b'])
  await assert.rejects(read(['a\nb']), /the last line was cut/)
  await assert.rejects(read(['a\n', 'b'.repeat(101)]), /longer than 100 bytes/)
})
