import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createSourceOrder, type SourceOrder } from '../../../shared/fill/source-order.ts'
import { SourceError, type BlobSource } from '../../../shared/stream/blob-source.ts'

const plenty = 10_000_000

function named(...names: string[]): BlobSource[] {
  return names.map((name) => ({
    name,
    open: () => Promise.reject(new Error('not opened in this test')),
  }))
}

function order(sources: Parameters<typeof createSourceOrder>[0], clock = { now: 0 }): SourceOrder {
  return createSourceOrder(sources, {
    attempts: 3,
    retryDelaysMs: [0, 100, 400],
    maxBusyMs: 5000,
    now: () => clock.now,
  })
}

async function next(of: SourceOrder): Promise<string> {
  const { source, waitMs } = await of.next()
  return waitMs === 0 ? source.blob.name : `${source.blob.name} in ${waitMs}`
}

async function fail(
  of: SourceOrder,
  code: SourceError['code'],
  progress = 0,
  retryAfterMs?: number,
) {
  const { source } = await of.next()
  of.failed(
    source,
    new SourceError(code, `${source.blob.name} ${code}`, { retryAfterMs }),
    progress,
  )
}

const namesOf = (sources: ReturnType<SourceOrder['candidates']>) =>
  sources.map(({ blob }) => blob.name)

test('before the first headers each source is asked once, and the origin has the last word', async () => {
  const sources = order(named('peer', 'origin'))
  assert.equal(await next(sources), 'peer')
  await fail(sources, 'unavailable')
  assert.equal(await next(sources), 'origin')
  await fail(sources, 'absent')
  await assert.rejects(sources.next(), { code: 'absent' })
})

test('a list that is given to be asked once is asked when somebody is needed, and never again', async () => {
  let asked = 0
  const once = (...names: string[]) => ({
    once() {
      asked++
      return named(...names)
    },
  })
  const sources = order(once('a'))
  sources.add(once('a', 'b'))
  assert.equal(asked, 0)
  assert.equal(await next(sources), 'a')
  assert.equal(asked, 2)
  sources.started()
  sources.add(once('c'))
  assert.deepEqual(namesOf(sources.candidates()), ['a', 'b'])
  for (let n = 0; n < 3; n++) await fail(sources, 'absent', plenty)
  await assert.rejects(sources.next(), { code: 'absent' })
  assert.equal(asked, 3)
})

test('in mid-fill the next source follows at once, and a cut one comes round again', async () => {
  const sources = order(named('a', 'b'))
  sources.started()
  await fail(sources, 'unavailable', plenty)
  assert.equal(await next(sources), 'b')
  await fail(sources, 'unavailable', plenty)
  assert.equal(await next(sources), 'a')
})

test('failures without progress are spaced out, then the source is given up', async () => {
  const clock = { now: 0 }
  const sources = order(named('a'), clock)
  sources.started()
  await fail(sources, 'unavailable')
  assert.equal(await next(sources), 'a')
  await fail(sources, 'unavailable')
  assert.equal(await next(sources), 'a in 100')
  clock.now = 100
  assert.equal(await next(sources), 'a')
  await fail(sources, 'unavailable')
  await assert.rejects(sources.next(), { code: 'unavailable' })
})

test('a source that brings bytes between its failures is never given up', async () => {
  const sources = order(named('a'))
  sources.started()
  for (let round = 0; round < 20; round++) await fail(sources, 'unavailable', plenty)
  assert.equal(await next(sources), 'a')
})

test('of sources without a free place only the last one is waited for', async () => {
  const full = new Set(['a', 'b', 'c'])
  const sources = createSourceOrder(named('a', 'b', 'c'), {
    attempts: 3,
    retryDelaysMs: [0],
    maxBusyMs: 0,
    now: () => 0,
    isFull: (name) => full.has(name),
  })
  sources.started()
  assert.equal(await next(sources), 'c')
  assert.deepEqual(namesOf(sources.candidates()), ['c'])
  full.delete('b')
  assert.equal(await next(sources), 'b')
  await fail(sources, 'absent')
  assert.equal(await next(sources), 'c')
  await fail(sources, 'absent')
  assert.equal(await next(sources), 'a', 'it is the last one left')
})

test('a busy source is left alone as long as it asks, within reason, and others go on', async () => {
  const sources = order(named('a', 'b'))
  sources.started()
  await fail(sources, 'busy', 0, 2000)
  assert.equal(await next(sources), 'b')
  await fail(sources, 'busy', 0, 3_600_000)
  assert.equal(await next(sources), 'a in 2000')
})

test('who refuses or has nothing is not asked again', async () => {
  const sources = order(named('a', 'b', 'c'))
  sources.started()
  await fail(sources, 'refused', plenty)
  await fail(sources, 'absent')
  for (let round = 0; round < 3; round++) {
    assert.equal(await next(sources), 'c')
    await fail(sources, 'unavailable', plenty)
  }
})

test('a function is asked again once all have failed, but only after progress', async () => {
  let asked = 0
  const sources = order(() => named(`token ${++asked}`, 'same'))
  assert.equal(await next(sources), 'token 1')
  sources.started()
  await fail(sources, 'refused', plenty)
  await fail(sources, 'refused', plenty)
  assert.equal(await next(sources), 'same')
  assert.equal(asked, 2)
  await fail(sources, 'refused')
  assert.equal(await next(sources), 'token 2')
  await fail(sources, 'refused')
  await assert.rejects(sources.next(), { code: 'refused' })
  assert.equal(asked, 2)
})

test('before the first headers a function is not asked twice', async () => {
  let asked = 0
  const sources = order(() => {
    asked++
    return named('a')
  })
  await fail(sources, 'absent')
  await assert.rejects(sources.next(), { code: 'absent' })
  assert.equal(asked, 1)
})

test("a joiner's sources stand behind the first ones, each name once", async () => {
  const sources = order(named('a'))
  sources.add(named('a', 'b'))
  sources.add(async () => named('c'))
  await sources.next()
  assert.deepEqual(
    sources.all.map((source) => source.blob.name),
    ['a', 'b', 'c'],
  )
})

test('no source at all is unavailable, not a crash', async () => {
  await assert.rejects(order([]).next(), { code: 'unavailable' })
})

test('whoever a busy source names is asked before the one behind it, and the origin keeps the last word', async () => {
  const sources = order(named('home', 'next', 'origin'))
  const { source } = await sources.next()
  const others = named('one', 'next', 'other')
  sources.failed(source, new SourceError('busy', 'home is busy', { others }), 0)
  for (const name of ['one', 'other', 'next']) {
    assert.equal(await next(sources), name)
    await fail(sources, 'absent')
  }
  assert.equal(await next(sources), 'origin')
  const bits = sources.all.map(({ bit }) => bit)
  assert.equal(new Set(bits).size, bits.length)
})
