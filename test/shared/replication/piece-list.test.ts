import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { test } from 'node:test'
import fc from 'fast-check'
import { pieceBytes } from '../../../shared/fill/segments.ts'
import { digestOf } from '../../../shared/oci/digest.ts'
import {
  formatPieceList,
  listedPieceBytes,
  listedPieces,
  maxPieceListBytes,
  parsePieceList,
  PieceListError,
} from '../../../shared/replication/piece-list.ts'

const sizes = fc.oneof(
  fc.integer({ min: 1, max: 100 * listedPieceBytes }),
  fc.integer({ min: 1, max: 100 }).map((pieces) => pieces * listedPieceBytes),
)
const hashesOf = (size: number) => Array.from({ length: listedPieces(size) }, () => randomBytes(32))
const digestFrom = (bytes: Uint8Array, algorithm: 'sha256' | 'sha512') =>
  digestOf(Buffer.from(bytes), algorithm)

test('a list says of each piece what it was made of, and is the same for the same blob', () => {
  fc.assert(
    fc.property(
      sizes,
      fc.uint8Array(),
      fc.constantFrom('sha256', 'sha512'),
      (size, of, algorithm) => {
        const digest = digestFrom(of, algorithm)
        const hashes = hashesOf(size)
        const bytes = formatPieceList({ digest, size }, hashes)
        assert.ok(bytes.length <= maxPieceListBytes(size))
        assert.deepEqual(formatPieceList({ digest, size }, hashes), bytes)
        const list = parsePieceList(bytes, digest)
        assert.deepEqual(
          [list.digest, list.size, hashes.map((_, piece) => list.hashOf(piece))],
          [digest, size, hashes],
        )
      },
    ),
    { numRuns: 50 },
  )
})

test('a list that is cut, longer, of another blob, or anything else is refused', () => {
  const digest = digestFrom(new Uint8Array(), 'sha256')
  const refuses = (bytes: Buffer, of = digest) =>
    assert.throws(() => parsePieceList(bytes, of), PieceListError)
  fc.assert(
    fc.property(sizes, fc.nat(), (size, at) => {
      const bytes = formatPieceList({ digest, size }, hashesOf(size))
      refuses(bytes.subarray(0, at % bytes.length))
      refuses(Buffer.concat([bytes, Buffer.alloc(1)]))
      refuses(Buffer.concat([bytes, Buffer.alloc(32)]))
      refuses(bytes, digestFrom(Buffer.from('another'), 'sha256'))
    }),
    { numRuns: 50 },
  )
  fc.assert(fc.property(fc.uint8Array(), (bytes) => refuses(Buffer.from(bytes))))
  const headed = (...lines: readonly unknown[]) => Buffer.from(`${lines.join('\n')}\n`)
  for (const size of ['0', '-1', '01', '1.5', '1e3', '9007199254740993', ''])
    refuses(Buffer.concat([headed('outport-pieces/1', digest, size), Buffer.alloc(32)]))
  refuses(Buffer.concat([headed('outport-pieces/2', digest, 1), Buffer.alloc(32)]))
})

test('a list is written of whole hashes alone, as many as the blob has pieces', () => {
  const digest = digestFrom(new Uint8Array(), 'sha256')
  const size = 2 * listedPieceBytes
  const hash = createHash('sha256').digest()
  for (const hashes of [[hash], [hash, hash, hash], [hash, hash.subarray(1)]])
    assert.throws(() => formatPieceList({ digest, size }, hashes), PieceListError)
})

test('the pieces of a list are those of a fill', () => assert.equal(listedPieceBytes, pieceBytes))
