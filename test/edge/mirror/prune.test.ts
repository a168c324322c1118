import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createPrune, type PruneOptions } from '../../../edge/mirror/prune.ts'
import { createLogger } from '../../../shared/observability/log.ts'
import { digestOf, type Digest } from '../../../shared/oci/digest.ts'

const digest = (name: string): Digest => digestOf(Buffer.from(name))

/** What is held: of the primary, of another registry, and of both. */
const held: Readonly<Record<string, { readonly bytes: number; readonly upstreams: string[] }>> = {
  kept: { bytes: 800, upstreams: ['primary'] },
  left: { bytes: 150, upstreams: ['primary'] },
  shared: { bytes: 50, upstreams: ['primary', 'docker.io'] },
  foreign: { bytes: 9000, upstreams: ['docker.io'] },
  unlinked: { bytes: 10, upstreams: [] },
}

function createStand(options: Partial<PruneOptions> = {}) {
  const lines: string[] = []
  const removed: Digest[] = []
  const state = { isSettled: true, kept: new Set([digest('kept')]) as Set<Digest> | undefined }
  const prune = createPrune({
    options: { mode: 'on', limit: 20, every: 3_600_000, ...options },
    upstream: 'primary',
    blobs: {
      async *list() {
        for (const [name, { bytes }] of Object.entries(held))
          yield [{ digest: digest(name), bytes, record: undefined, owner: undefined }]
      },
      upstreamsOf: (of) => {
        const [, found] = Object.entries(held).find(([name]) => digest(name) === of) ?? []
        return Promise.resolve(new Set(found?.upstreams))
      },
      prune: (of) => {
        removed.push(of)
        return Promise.resolve(true)
      },
    },
    isSettled: () => state.isSettled,
    kept: () => Promise.resolve(state.kept),
    log: createLogger({ level: 'info', write: (line) => void lines.push(line) }),
    now: () => 0,
  })
  return { prune, state, removed, lines }
}

test('what nothing keeps goes, and only what is the primary’s alone', async () => {
  const { prune, removed } = createStand()
  assert.deepEqual(await prune.run(), { outcome: 'done', digests: [digest('left')], bytes: 150 })
  assert.deepEqual(removed, [digest('left')])
  const nothingLeft = { outcome: 'done', at: 0, blobs: 0, bytes: 0, digests: [] }
  assert.deepEqual(prune.report(), { ...nothingLeft, removed: { at: 0, blobs: 1, bytes: 150 } })
})

test('a dry run says what would go, and removes nothing', async () => {
  const { prune, removed, lines } = createStand({ mode: 'dry_run', limit: 1 })
  const shown = { outcome: 'shown', digests: [digest('left')], bytes: 150 }
  assert.deepEqual(await prune.run(), shown)
  assert.deepEqual(removed, [])
  assert.match(lines.join(), new RegExp(digest('left')))
  assert.deepEqual(prune.report(), { ...shown, at: 0, blobs: 1 })
})

test('more than the limit goes only when the limit says so', async () => {
  // 150 of 1000 bytes.
  const { prune, removed, lines } = createStand({ limit: 14 })
  assert.equal((await prune.run()).outcome, 'refused')
  assert.deepEqual(removed, [])
  assert.match(lines.join(), /edge.cache.prune.limit/)
  assert.equal((await createStand({ limit: 15 }).prune.run()).outcome, 'done')
})

test('nothing goes before all is known that keeps anything', async () => {
  const { prune, state, removed } = createStand()
  state.isSettled = false
  assert.equal((await prune.run()).outcome, 'unsettled')
  assert.equal(prune.report(), undefined)
  state.isSettled = true
  state.kept = undefined
  assert.equal((await prune.run()).outcome, 'unsettled')
  assert.deepEqual(removed, [])
})
