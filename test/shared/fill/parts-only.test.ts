import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { createHomeSpread } from '../../../edge/sources/spread.ts'
import { digestOf } from '../../../shared/oci/digest.ts'
import { waitFor } from '../../kit/clock.ts'
import { only, proofOf, readFrom, withFills } from '../../kit/fill.ts'
import { createScriptedSource } from '../../kit/source.ts'

const mib = 1024 * 1024
const blob = randomBytes(24 * mib + 11)
const digest = digestOf(blob)
const proof = () => Promise.resolve(proofOf(blob))
const home = { partsOnly: true, forEdge: 'home', proof } as const

test('the home of a part gets that part alone, and gives it to all who ask', () =>
  withFills({ idleMs: 50 }, async ({ fills, join, ended, disk }) => {
    const origin = createScriptedSource(blob)
    const [start, end] = [10 * mib, 12 * mib]
    const [one, other] = [
      await join(digest, only(origin), home),
      await join(digest, only(origin), home),
    ]
    assert.equal(fills.has(digest), false, 'it does not come whole')
    for (const reader of [one, other]) reader.expect({ start, end: end - 1 })
    const [first, second] = await Promise.all([
      readFrom(one, { start, end }),
      readFrom(other, { start, end }),
    ])
    assert.ok(first.equals(blob.subarray(start, end)))
    assert.ok(second.equals(first))
    assert.equal(origin.deliveredBytes, end - start)
    assert.equal((await ended()).kind, 'parked')
    await waitFor('the file to be let go', () => disk.openSinks === 0)
    const later = await join(digest, only(origin), home)
    later.expect({ start, end: end - 1 })
    assert.ok((await readFrom(later, { start, end })).equals(first))
    assert.equal(origin.deliveredBytes, end - start, 'what came is kept')
  }))

test('who wants all of it gets what is missing besides the parts', () =>
  withFills({}, async ({ fills, join, ended }) => {
    const origin = createScriptedSource(blob)
    const part = await join(digest, only(origin), home)
    part.expect({ start: 3 * mib, end: 4 * mib - 1 })
    await readFrom(part, { start: 3 * mib, end: 4 * mib })
    const whole = await join(digest, only(origin), { proof })
    assert.equal(fills.has(digest), true)
    assert.ok((await readFrom(whole)).equals(blob))
    assert.equal((await ended()).kind, 'stored')
    assert.equal(origin.deliveredBytes, blob.length)
  }))

test('all parts together are the whole, which is kept', () =>
  withFills({}, async ({ join, ended }) => {
    const origin = createScriptedSource(blob)
    const part = await join(digest, only(origin), home)
    part.expect({ start: 0, end: blob.length - 1 })
    assert.ok((await readFrom(part)).equals(blob))
    assert.equal((await ended()).kind, 'stored')
  }))

test('nobody is the home of a part that cannot be proved alone, or that no source gives', () =>
  withFills({}, async ({ join }) => {
    const origin = createScriptedSource(blob, { script: () => ({ fail: 'absent' }) })
    const { proof: _, ...unproved } = home
    await assert.rejects(join(digest, only(origin), unproved), { code: 'absent' })
    assert.equal(origin.requests.length, 0)
    const reader = await join(digest, only(origin), home)
    reader.expect({ start: 0, end: mib - 1 })
    await assert.rejects(readFrom(reader, { end: mib }), { code: 'unavailable' })
  }))

test('nobody is the home of a part without a disk', () =>
  withFills({}, async ({ join }) => {
    const openSink = () => Promise.reject(new Error('it is full'))
    const reader = join(digest, only(createScriptedSource(blob)), { ...home, openSink })
    await assert.rejects(
      reader.then((opened) => readFrom(opened, { end: mib })),
      { code: 'unavailable' },
    )
  }))

test('each part is asked of its home, and of the fill’s own sources where this is it', () =>
  withFills({}, async ({ join, ended }) => {
    const origin = createScriptedSource(blob)
    const [one, two] = ['one', 'two'].map((name) => createScriptedSource(blob, { name }))
    const rank = (piece: number) =>
      [
        [one, two],
        [undefined, one],
        [two, undefined],
      ][piece % 3] ?? []
    const homes = (size: number) => createHomeSpread(rank, size)
    const reader = await join(digest, only(origin), { homes, proof })
    assert.ok((await readFrom(reader)).equals(blob))
    assert.equal((await ended()).kind, 'stored')
    const parts = Array.from({ length: 25 }, (_, part) => part % 3)
    const bytesFor = (turn: number) =>
      parts.filter((part, piece) => part === turn && piece < 24).length * mib +
      (parts[24] === turn ? 11 : 0)
    assert.deepEqual(
      [one, origin, two].map((source) => source?.deliveredBytes),
      [0, 1, 2].map(bytesFor),
    )
  }))

test('without a proof of each piece nobody is asked for parts', () =>
  withFills({}, async ({ join }) => {
    const origin = createScriptedSource(blob)
    const other = createScriptedSource(blob, { name: 'other' })
    const homes = (size: number) => createHomeSpread(() => [other], size)
    const reader = await join(digest, only(origin), { homes, expectedSize: blob.length })
    await waitFor('the origin', () => origin.requests.length > 0)
    assert.ok((await readFrom(reader)).equals(blob))
    assert.equal(other.requests.length, 0)
  }))
