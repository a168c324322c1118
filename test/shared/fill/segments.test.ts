import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  createPieces,
  pieceBytes,
  segmentPieces,
  wholePieces,
  type PieceState,
} from '../../../shared/fill/segments.ts'

test('a blob is cut into pieces of which the last may be short', () => {
  const pieces = createPieces(2 * pieceBytes + 5)
  assert.equal(pieces.count, 3)
  assert.deepEqual(
    [0, 1, 2].map((piece) => pieces.lengthOf(piece)),
    [pieceBytes, pieceBytes, 5],
  )
  assert.equal(createPieces(0).count, 0)
  assert.equal(createPieces(1).lengthOf(0), 1)
  assert.equal(createPieces(pieceBytes).count, 1)
})

test('the front asks for the lowest run that nobody brings', () => {
  const pieces = createPieces(20 * pieceBytes)
  assert.deepEqual(pieces.missingRun(), { first: 0, end: 20 })
  pieces.set(0, 'disk')
  pieces.set(1, 'coming')
  pieces.set(5, 'memory')
  assert.deepEqual(pieces.missingRun(), { first: 2, end: 5 })
  assert.equal(pieces.firstUnready(), 1)
  for (let piece = 0; piece < 20; piece++) pieces.set(piece, 'disk')
  assert.equal(pieces.missingRun(), undefined)
  assert.equal(pieces.firstUnready(), 20)
})

test('a distant reader gets its piece to the end of the segment, or to what is not missing', () => {
  const pieces = createPieces(20 * pieceBytes)
  assert.deepEqual(pieces.distantRun(8), { first: 8, end: 16 })
  assert.deepEqual(pieces.distantRun(11), { first: 11, end: 16 })
  assert.deepEqual(pieces.distantRun(17), { first: 17, end: 20 })
  pieces.set(14, 'coming')
  assert.deepEqual(pieces.distantRun(11), { first: 11, end: 14 })
})

test('what is on disk is told as joined extents, and read back as whole pieces', () => {
  const size = 5 * pieceBytes + 7
  const pieces = createPieces(size)
  for (const piece of [0, 1, 3, 5]) pieces.set(piece, 'disk')
  assert.deepEqual(pieces.onDisk(), [
    { start: 0, end: 2 * pieceBytes },
    { start: 3 * pieceBytes, end: 4 * pieceBytes },
    { start: 5 * pieceBytes, end: size },
  ])
  assert.deepEqual(wholePieces(pieces.onDisk(), size), [0, 1, 3, 5])
  assert.deepEqual(wholePieces([{ start: 1, end: 3 * pieceBytes - 1 }], size), [1])
  assert.deepEqual(wholePieces([{ start: -5, end: 10 * size }], size), [0, 1, 2, 3, 4, 5])
  assert.deepEqual(wholePieces([{ start: 7, end: 3 }], size), [])
})

test('whatever happens to pieces, counts and runs agree with a plain list', () => {
  const states: readonly PieceState[] = ['missing', 'coming', 'memory', 'disk', 'passed']
  const step = fc.tuple(fc.nat(29), fc.constantFrom(...states))
  fc.assert(
    fc.property(fc.array(step), fc.nat(29), (steps, asked) => {
      const pieces = createPieces(30 * pieceBytes - 3)
      const model = new Array<PieceState>(30).fill('missing')
      for (const [piece, state] of steps) {
        pieces.set(piece, state)
        model[piece] = state
      }
      for (const state of states)
        assert.equal(pieces.counted(state), model.filter((other) => other === state).length)
      const run = pieces.missingRun()
      assert.equal(run?.first ?? -1, model.indexOf('missing'))
      if (run !== undefined) {
        assert.ok(model.slice(run.first, run.end).every((state) => state === 'missing'))
        assert.notEqual(model[run.end], 'missing')
      }
      const distant = pieces.distantRun(asked)
      assert.ok(distant.end - distant.first <= segmentPieces)
      assert.ok(model.slice(distant.first, distant.end).every((state) => state === 'missing'))
      assert.deepEqual(
        wholePieces(pieces.onDisk(), pieces.size),
        model.flatMap((state, piece) => (state === 'disk' ? [piece] : [])),
      )
    }),
  )
})
