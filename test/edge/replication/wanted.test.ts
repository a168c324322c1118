import assert from 'node:assert/strict'
import { once } from 'node:events'
import { test } from 'node:test'
import type { KnownRule } from '../../../edge/cache/statement-records.ts'
import type { KnownEvent } from '../../../edge/cache/statement-events.ts'
import type { Selection, Statements } from '../../../edge/cache/statements.ts'
import { createWanted, type WantedDeps } from '../../../edge/replication/wanted.ts'
import { digestOf, type Digest } from '../../../shared/oci/digest.ts'
import type { EventFact, RosterEdge } from '../../../shared/replication/events.ts'
import { waitFor } from '../../kit/clock.ts'

const [projectId, repositoryId, ruleId] = [1, 2, 3]
const rule: KnownRule = {
  ruleId,
  name: 'all',
  enabled: true,
  selector: {},
  serve: 'complete',
  platforms: [],
}
const self: RosterEdge = {
  edgeId: 'one',
  name: 'one',
  site: '',
  region: '',
  labels: {},
  scope: '*',
  suspended: false,
}
const selected = (digest: Digest): Selection => ({
  ruleId,
  projectId,
  repositoryId,
  digest,
  seq: 1,
  isHeld: false,
  isDemoted: false,
})
const eventOf = (type: 'selected' | 'unselected', digest: Digest): KnownEvent => {
  const fact: EventFact = { type, projectId, repositoryId, ruleId, digest }
  return { seq: 2, at: 0, stream: 'project:1', fact, bodyHash: '' }
}

/** What an edge wants, from records that are read when the test says so; nothing of it ever comes. */
function startWanted(recorded: readonly Selection[], deps: Partial<WantedDeps> = {}) {
  let wait: Promise<void> = Promise.resolve()
  const statements: Partial<Statements> = {
    cursor: undefined,
    edge: () => self,
    rules: () => Promise.resolve([rule]),
    preheats: () => Promise.resolve([]),
    repositoryName: () => 'library/app',
    async *selections() {
      await wait
      yield* recorded
    },
  }
  const wanted = createWanted({
    edgeId: self.edgeId,
    upstream: 'primary',
    statements: statements as Statements,
    manifest: () => new Promise(() => undefined),
    blob: () => new Promise(() => undefined),
    isHeld: () => false,
    heldParts: () => Promise.resolve(undefined),
    isPinned: () => false,
    room: () => ({ bytes: Infinity }) as never,
    pin: () => Promise.resolve(),
    onProgress: () => undefined,
    onFailed: (error) => assert.fail(error as Error),
    onHeld: () => undefined,
    now: Date.now,
    ...deps,
  })
  return {
    wanted,
    /** Has the records read again, and what is given done before they come. */
    async readAround(meanwhile: () => void): Promise<void> {
      const { promise, resolve } = Promise.withResolvers<void>()
      wait = promise
      const reading = wanted.readAgain()
      // The rules are read first.
      await new Promise(setImmediate)
      meanwhile()
      resolve()
      await reading
    },
  }
}

test('what is selected while all is read again stays wanted', async () => {
  const { wanted, readAround } = startWanted([])
  await wanted.readAgain()
  const digest = digestOf(Buffer.from('selected'))
  await readAround(() => wanted.applied([eventOf('selected', digest)]))
  assert.equal(wanted.isIncomplete(repositoryId, digest), true)
  assert.deepEqual(wanted.roots(), [digest])
})

test('what is unselected while all is read again is not wanted', async () => {
  const digest = digestOf(Buffer.from('unselected'))
  const { wanted, readAround } = startWanted([selected(digest)])
  await wanted.readAgain()
  assert.deepEqual(wanted.roots(), [digest])
  await readAround(() => wanted.applied([eventOf('unselected', digest)]))
  assert.equal(wanted.isIncomplete(repositoryId, digest), false)
  assert.deepEqual(wanted.roots(), [])
})

test('what failed is tried at once when the primary is back, and not when its time has come', async () => {
  let failures = 0
  const { wanted } = startWanted([selected(digestOf(Buffer.from('a layer')))], {
    manifest: () => Promise.reject(new Error('refused')),
    onFailed: () => failures++,
    retryMs: 3_600_000,
  })
  await wanted.readAgain()
  for (const tries of [1, 2, 3]) {
    await waitFor(`try ${tries} to fail`, () => failures === tries)
    wanted.retry()
  }
  await wanted.close()
})

test('what is not wanted any more is not fetched on, nor told of as failed', async () => {
  const digest = digestOf(Buffer.from('an image'))
  const layer = { mediaType: 'layer', digest: digestOf(Buffer.from('a layer')), size: 20 }
  const signals: AbortSignal[] = []
  const { wanted, readAround } = startWanted([], {
    manifest: () => Promise.resolve({ blobs: [layer], manifests: [] }),
    room: () => ({ bytes: Infinity, restored: Promise.resolve() }) as never,
    blob: async (_origin, _blob, { signal }) => {
      signals.push(signal)
      await once(signal, 'abort')
      signal.throwIfAborted()
    },
  })
  await wanted.readAgain()
  for (const round of [0, 1]) {
    await readAround(() => wanted.applied([eventOf('selected', digest)]))
    await waitFor('the layer to be fetched', () => signals.length === round + 1)
    await readAround(() => wanted.applied([eventOf('unselected', digest)]))
    assert.equal(signals[round]?.aborted, true)
    assert.equal(wanted.progress().waitingBytes, 0)
  }
  await wanted.close()
})
