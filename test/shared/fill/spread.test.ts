import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { createSpread } from '../../../edge/sources/spread.ts'
import { digestOf } from '../../../shared/oci/digest.ts'
import { SourceError, type BlobSource } from '../../../shared/stream/blob-source.ts'
import { waitFor } from '../../kit/clock.ts'
import { only, readFrom, withFills } from '../../kit/fill.ts'
import { createScriptedSource, type RequestScript } from '../../kit/source.ts'

const mib = 1024 * 1024
const blob = randomBytes(24 * mib + 11)
const digest = digestOf(blob)

/** Four that share it out, each by its script; this one is the third. */
function site(
  scripts: Readonly<Record<string, (request: number) => RequestScript | undefined>> = {},
) {
  const origin = createScriptedSource(blob)
  const others = ['one', 'two', 'four'].map((name) =>
    createScriptedSource(blob, { name, ...(scripts[name] && { script: scripts[name] }) }),
  )
  const [one, two, four] = others
  const spread = createSpread([one, two, undefined, four], blob.length)
  return {
    origin,
    others,
    start: { spread, expectedSize: blob.length, priority: 'prefetch' as const },
  }
}

const parts = Math.ceil(blob.length / mib)

test('each edge is the home of as many parts, and each other one is asked behind it', () => {
  const names = ['a', 'b', 'c', 'd']
  const sources = names.map((name) => createScriptedSource(blob, { name }))
  const { sourcesOf, partPieces } = createSpread([...sources.slice(0, 3), undefined], 100 * mib)
  assert.equal(partPieces, 3)
  const asked = Array.from({ length: 24 }, (_, part) => sourcesOf(part).map(({ name }) => name))
  for (const name of ['a', 'b', 'c']) {
    assert.equal(asked.filter(([home]) => home === name).length, 6)
  }
  assert.equal(asked.filter(({ length }) => length === 0).length, 6)
  const behind = new Set(asked.filter(([home]) => home === 'a').map(([, second]) => second))
  assert.deepEqual(behind, new Set(['b', 'c', undefined]))
  assert.equal(createSpread([undefined, sources[0]], 2 ** 34).partPieces, 8)
})

test('each part comes from its home, and those of this one alone from the origin', () =>
  withFills({}, async ({ join, ended }) => {
    const { origin, others, start } = site()
    const reader = await join(digest, only(origin), start)
    await reader.whole()
    await reader.close()
    assert.equal((await ended()).kind, 'stored')
    assert.equal(origin.deliveredBytes, Math.floor(parts / 4) * mib)
    for (const { deliveredBytes } of others) assert.ok(deliveredBytes >= 6 * mib)
  }))

test('whoever stalls, has nothing or is busy costs no more than its parts', () =>
  withFills({ stallMs: 200 }, async ({ join }) => {
    const { origin, others, start } = site({
      one: () => ({ stallAfter: 1000 }),
      two: (request) => (request < 3 ? { fail: request === 1 ? 'busy' : 'absent' } : undefined),
    })
    const reader = await join(digest, only(origin), start)
    assert.ok((await readFrom(reader)).equals(blob))
    const [one, , four] = others
    assert.equal(one?.requests.length, 1)
    assert.ok((four?.deliveredBytes ?? 0) > 6 * mib, 'it has parts of the one that stalled')
    assert.ok(origin.deliveredBytes < 12 * mib)
  }))

test('who is alone asks more and more homes at once, and who hears that they are busy asks few', async () => {
  const mostAtOnce = async (script: (request: number) => RequestScript | undefined) => {
    let most = 0
    await withFills({}, async ({ join }) => {
      const homes = Array.from({ length: 20 }, (_, home) =>
        createScriptedSource(blob, { name: `home-${home}`, script }),
      )
      const watched = homes.map((home): BlobSource => ({
        ...home,
        async open(request) {
          const opened = await home.open(request)
          const running = homes.flatMap(({ requests }) => requests.filter(({ open }) => open))
          most = Math.max(most, running.length)
          return opened
        },
      }))
      const spread = createSpread([...watched, undefined], blob.length)
      const { start } = site()
      const reader = await join(digest, only(createScriptedSource(blob)), { ...start, spread })
      assert.ok((await readFrom(reader)).equals(blob))
    })
    return most
  }
  const alone = await mostAtOnce(() => undefined)
  assert.ok(alone > 4 && alone <= 24, `${alone} at once`)
  const crowded = await mostAtOnce((request) => (request === 0 ? { fail: 'busy' } : undefined))
  assert.ok(crowded <= 4, `${crowded} at once`)
})

test('whoever gives nothing keeps nobody from what the others have', () =>
  withFills({ headersTimeoutMs: 60_000, stallMs: 60_000 }, async ({ join }) => {
    // As many as are asked at once where nothing else is known.
    const silent = Array.from({ length: 4 }, (_, home) =>
      createScriptedSource(blob, {
        name: `silent-${home}`,
        script: () => ({ stallHeaders: true }),
      }),
    )
    const others = Array.from({ length: 4 }, (_, home) =>
      createScriptedSource(blob, {
        name: `other-${home}`,
        // So that no more than four are asked for long.
        script: (request) => (request === 0 ? { fail: 'busy' } : undefined),
      }),
    )
    const origin = createScriptedSource(blob)
    const homes = silent.flatMap((each, n) => [each, others[n]])
    const spread = createSpread([...homes, undefined], blob.length)
    const reader = await join(digest, only(origin), { ...site().start, spread })
    const theirs = (at: number) => Array.from({ length: parts }).filter((_, n) => n % 9 === at)
    await waitFor('all that the others are the homes of', () =>
      others.every(
        ({ deliveredBytes }, n) => deliveredBytes >= (theirs(2 * n + 1).length - 1) * mib,
      ),
    )
    assert.ok(silent.every(({ requests }) => requests.length > 0))
    await reader.close()
  }))

test('what is waited for at the end is asked of another one, and who was slow is asked for nothing twice', () =>
  withFills({ headersTimeoutMs: 60_000, stallMs: 60_000 }, async ({ join }) => {
    const theirs = Array.from({ length: parts }).filter((_, part) => part % 4 === 0).length
    const { origin, others, start } = site({
      one: (request) => (request === theirs - 1 ? { stallAfter: 1000 } : undefined),
    })
    const reader = await join(digest, only(origin), start)
    assert.ok((await readFrom(reader)).equals(blob))
    const asked = others[0]?.requests.map(({ offset }) => Math.floor(offset / mib)) ?? []
    const slow = asked[theirs - 1]
    assert.equal(asked.filter((part) => part === slow).length, 1)
  }))

test('who flips a byte is named, and what it sent comes again from the origin', () =>
  withFills({}, async ({ join, ended, liars, disk }) => {
    const { origin, start } = site({ two: () => ({ flipAt: 5 * mib + 7 }) })
    const reader = await join(digest, only(origin), start)
    await assert.rejects(reader.whole(), { code: 'broken' })
    await reader.close()
    assert.equal((await ended()).kind, 'stored')
    assert.ok((await disk.content())?.equals(blob))
    assert.deepEqual(liars, ['two'])
  }))

test("one that is asked in a home's place asks that home itself first", () =>
  withFills({}, async ({ join }) => {
    const { origin, others, start } = site()
    for (const other of others) other.holdAt(0)
    const own = await join(digest, only(origin), start)
    const forEdge = await join(digest, only(origin), { forEdge: 'home' })
    // Its home is the first one.
    const offset = (parts - 5) * mib
    forEdge.expect({ start: offset, end: offset + mib - 1 })
    for (const other of others) other.holdAt(undefined)
    assert.ok((await forEdge.read(Buffer.alloc(11), offset)) > 0)
    await forEdge.close()
    await own.whole()
    await own.close()
    assert.equal(origin.deliveredBytes, Math.floor(parts / 4) * mib)
  }))

test('an origin that fails for a moment does not end what is shared out', () =>
  withFills({}, async ({ join }) => {
    const { start } = site()
    const origin = createScriptedSource(blob, {
      script: (request) => (request < 2 ? { fail: 'unavailable' } : undefined),
    })
    const reader = await join(digest, only(origin), start)
    await reader.whole()
    await reader.close()
    assert.equal(origin.deliveredBytes, Math.floor(parts / 4) * mib)
  }))

test('when all homes of a part are gone, who is said to have it is asked before the origin', () =>
  withFills({}, async ({ join }) => {
    let gone = 0
    const named = createScriptedSource(blob, {
      name: 'named',
      script: () => (gone < 3 ? { fail: 'busy' } : undefined),
    })
    const homes = ['one', 'two', 'four'].map((name): BlobSource => {
      let asked = 0
      const open = (): Promise<never> => {
        if (asked++ === 0) throw new SourceError('busy', `${name} is busy`, { others: [named] })
        gone++
        throw new SourceError('unavailable', `${name} is gone`)
      }
      return { name, open }
    })
    const [one, two, four] = homes
    const origin = createScriptedSource(blob)
    const spread = createSpread([one, two, undefined, four], blob.length)
    const { start } = site()
    const reader = await join(digest, only(origin), { ...start, spread })
    await reader.whole()
    await reader.close()
    assert.ok(named.deliveredBytes > 0)
    assert.equal(named.deliveredBytes + origin.deliveredBytes, blob.length)
  }))

test('another edge gets a part before the whole is proved, from the origin if its home gives nothing', () =>
  withFills({ stallMs: 200 }, async ({ join, ended }) => {
    const { origin, others, start } = site()
    for (const other of others) other.holdAt(0)
    const own = await join(digest, only(origin), start)
    const forEdge = await join(digest, only(origin), { forEdge: 'home' })
    const offset = (parts - 1) * mib
    forEdge.expect({ start: offset, end: blob.length - 1 })
    const tail = Buffer.alloc(11)
    assert.equal(await forEdge.read(tail, offset), 11)
    assert.ok(tail.equals(blob.subarray(offset)))
    await forEdge.close()
    for (const other of others) other.holdAt(undefined)
    await own.whole()
    await own.close()
    await ended()
  }))
