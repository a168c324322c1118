import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  formatContentRange,
  formatRange,
  formatUnsatisfiedRange,
  formatUploadRange,
  parseContentRange,
  parseRange,
  parseUploadRange,
} from '../../../shared/stream/range.ts'

const cases: readonly [header: string | undefined, size: number, expected: string][] = [
  [undefined, 2048, 'whole'],
  ['', 2048, 'whole'],
  ['bytes=500-1499', 2048, '500-1499'],
  ['bytes=500-', 2048, '500-2047'],
  ['bytes=-500', 2048, '1548-2047'],
  ['bytes=2000-5000', 2048, '2000-2047'],
  ['bytes=0-0', 2048, '0-0'],
  ['bytes=-1', 2048, '2047-2047'],
  ['bytes=0-', 2048, '0-2047'],
  ['BYTES=0-1', 2048, '0-1'],
  ['bytes= 0-1 ', 2048, '0-1'],
  ['bytes=,0-1,', 2048, '0-1'],
  ['bytes=-5000', 2048, '0-2047'],
  ['bytes=500-0', 2048, 'unsatisfiable'],
  ['bytes=5-4', 2048, 'unsatisfiable'],
  ['bytes=-0', 2048, 'unsatisfiable'],
  ['bytes=5000-10000', 2048, 'unsatisfiable'],
  ['bytes=2048-', 2048, 'unsatisfiable'],
  ['bytes=0-', 0, 'whole'],
  ['bytes=-1', 0, 'whole'],
  ['bytes=0-0', 0, 'unsatisfiable'],
  ['bytes=a-b', 2048, 'whole'],
  ['bytes=1', 2048, 'whole'],
  ['bytes=-', 2048, 'whole'],
  ['bytes=+1-2', 2048, 'whole'],
  ['bytes=1-2-3', 2048, 'whole'],
  ['bytes=0x1-0x2', 2048, 'whole'],
  ['bytes', 2048, 'whole'],
  ['items=0-1', 2048, 'whole'],
  ['bytes=0-1,4-5', 2048, 'multiple'],
  ['bytes=0-1,a', 2048, 'whole'],
  [`bytes=0-${'9'.repeat(400)}`, 2048, '0-2047'],
  [`bytes=${'9'.repeat(400)}-`, 2048, 'unsatisfiable'],
  [`bytes=-${'9'.repeat(400)}`, 2048, '0-2047'],
  [`bytes=${'0'.repeat(400)}1-2`, 2048, '1-2'],
  ['bytes=9007199254740993-9007199254740994', 2048, 'unsatisfiable'],
]

for (const [header, size, expected] of cases) {
  test(`Range ${header?.slice(0, 40) ?? 'missing'} of ${size} bytes is ${expected}`, () => {
    const range = parseRange(header, size)
    const seen = range.kind === 'part' ? `${range.start}-${range.end}` : range.kind
    assert.equal(seen, expected)
  })
}

test('a part always lies inside the body and no header makes it throw', () => {
  const position = fc.oneof(fc.nat().map(String), fc.constantFrom('', '0', 'x', '9'.repeat(30)))
  const header = fc.oneof(
    fc.string(),
    fc.tuple(position, position).map(([first, last]) => `bytes=${first}-${last}`),
  )
  fc.assert(
    fc.property(header, fc.nat(), (text, size) => {
      const range = parseRange(text, size)
      if (range.kind !== 'part') return
      assert.ok(0 <= range.start && range.start <= range.end && range.end < size)
    }),
  )
})

test('what formatRange writes is what parseRange reads', () => {
  fc.assert(
    fc.property(fc.nat(), fc.nat(), fc.nat(), (start, more, rest) => {
      const [end, size] = [start + more, start + more + rest + 1]
      assert.deepEqual(parseRange(formatRange(start, end), size), { kind: 'part', start, end })
      assert.deepEqual(parseRange(formatRange(start), size), {
        kind: 'part',
        start,
        end: size - 1,
      })
      assert.deepEqual(parseContentRange(formatContentRange(start, end, size)), {
        start,
        end,
        size,
      })
      assert.deepEqual(parseUploadRange(`${start}-${end}`), { start, end })
    }),
  )
})

test('a Content-Range that cannot be true is not read', () => {
  const refused = [
    undefined,
    '',
    'bytes 5-4/10',
    'bytes 0-10/10',
    'bytes */10',
    'items 0-1/10',
    '0-1/10',
    'bytes 0-1',
    `bytes 0-${'9'.repeat(30)}/*`,
    `bytes 0-1/${'9'.repeat(30)}`,
  ]
  for (const header of refused) assert.equal(parseContentRange(header), undefined, header)
  assert.deepEqual(parseContentRange('bytes 0-1/*'), { start: 0, end: 1, size: undefined })
})

test('an upload range takes both forms that clients send, and nothing else', () => {
  assert.deepEqual(parseUploadRange('0-9'), { start: 0, end: 9 })
  assert.deepEqual(parseUploadRange('bytes 0-9/10'), { start: 0, end: 9 })
  for (const header of ['5-2', 'junk', '0-', '-9', '', `0-${'9'.repeat(30)}`, '0-9 0-9'])
    assert.equal(parseUploadRange(header), undefined, header)
})

test('the headers that have no parser are written as the specs want them', () => {
  assert.equal(formatUnsatisfiedRange(2048), 'bytes */2048')
  assert.equal(formatUploadRange(0), '0-0')
  assert.equal(formatUploadRange(10), '0-9')
})
