import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createPlanner } from '../../../primary/replication/plan.ts'
import type {
  ContentManifest,
  RepositoryContent,
} from '../../../primary/store/repository-content.ts'
import type { Selection } from '../../../primary/store/rule-planner.ts'
import { digestOf, type Digest } from '../../../shared/oci/digest.ts'

const now = new Date('2026-01-02T00:00:00Z')
const yesterday = new Date('2026-01-01T00:00:00Z')
const digest = (name: string): Digest => digestOf(Buffer.from(name))

type Given = Partial<Omit<ContentManifest, 'tags' | 'digest'>> & {
  readonly tags?: readonly string[]
}

function contentOf(manifests: Readonly<Record<string, Given>>): RepositoryContent {
  const rows = Object.entries(manifests).map(([name, { tags = [], ...rest }]): ContentManifest => ({
    digest: digest(name),
    type: 'IMAGE',
    subject: undefined,
    pushedAt: yesterday,
    size: 0,
    labels: [],
    children: [],
    ...rest,
    tags: tags.map((tag) => ({ name: tag, pushedAt: yesterday })),
  }))
  const named = new Map(rows.map((row) => [row.digest, row]))
  return { id: 1, projectId: 1, name: 'lib/app', manifests: named }
}

const selection = (name: string, tags: readonly string[] = []): Selection => ({
  digest: digest(name),
  tags,
  stopped: false,
})

interface Asked {
  readonly content: RepositoryContent
  readonly current?: readonly Selection[]
  readonly filters?: readonly object[]
  readonly deletion?: boolean
  readonly override?: boolean
  readonly moved?: readonly string[]
  readonly frozen?: boolean
}

const names = ['a', 'b', 'c', 'd', 'e']

/** What is wanted, by name, with its tags: `a:v1,v2 b`. */
function planned({ content, current = [], moved, frozen = false, ...rule }: Asked): {
  readonly wanted: string
  readonly skipped: readonly string[]
} {
  const planner = createPlanner({ filters: [], deletion: true, override: true, ...rule })
  const context = { frozen, moved: moved && new Set(moved), now }
  const { wanted, skipped } = planner.plan(content, current, context)
  const shown = wanted.map((one) => {
    const name = names.find((each) => digest(each) === one.digest) ?? '?'
    return one.tags.length === 0 ? name : `${name}:${one.tags.join(',')}`
  })
  return { wanted: shown.join(' '), skipped }
}

test('what an index names comes with it, and what is attached to any of them too', () => {
  const content = contentOf({
    a: {},
    b: { children: [digest('a')], tags: ['v1'] },
    c: { subject: digest('a') },
    d: { subject: digest('c') },
    e: { subject: digest('x') },
  })
  assert.equal(planned({ content }).wanted, 'b:v1 c d')
  const filters = [{ type: 'tag', value: 'v2' }]
  assert.equal(planned({ content, filters }).wanted, '')
})

test('what has just been pushed without a tag waits, unless it was selected or somebody runs the rule', () => {
  const content = contentOf({ a: { pushedAt: now }, b: {}, c: { tags: ['v1'], pushedAt: now } })
  assert.equal(planned({ content, moved: [] }).wanted, 'b c:v1')
  assert.equal(planned({ content, moved: [], current: [selection('a')] }).wanted, 'a b c:v1')
  assert.equal(planned({ content }).wanted, 'a b c:v1')
})

test('without deletion a tag that was deleted is still there to the rule, with it it is not', () => {
  const content = contentOf({ a: {}, b: { tags: ['v2'] } })
  const filters = [{ type: 'tag', value: 'v*' }]
  const current = [selection('a', ['v1']), selection('b', ['v2'])]
  assert.equal(planned({ content, filters, current }).wanted, 'b:v2')
  assert.equal(planned({ content, filters, current, deletion: false }).wanted, 'a:v1 b:v2')
  // Filters decide all the same.
  const other = [{ type: 'tag', value: 'v2' }]
  assert.equal(planned({ content, filters: other, current, deletion: false }).wanted, 'b:v2')
  const gone = contentOf({ b: { tags: ['v2'] } })
  assert.equal(planned({ content: gone, filters, current, deletion: false }).wanted, 'b:v2')
})

test('without override what a tag moved to is passed over, and said once', () => {
  const content = contentOf({ a: {}, b: { tags: ['latest'] }, c: { tags: ['latest-c', 'v1'] } })
  const current = [selection('a', ['latest']), selection('c', ['v1'])]
  const asked = { content, current, filters: [{ type: 'tag', value: 'latest' }] }
  assert.equal(planned(asked).wanted, 'b:latest')
  const kept = planned({ ...asked, override: false })
  assert.equal(kept.wanted, 'a:latest')
  assert.match(
    kept.skipped.join(),
    /^skipped lib\/app:latest@sha256:\w+: the rule brought the tag as sha256:\w+, and override is off$/,
  )
  assert.deepEqual(planned({ ...asked, override: false, moved: ['v1'] }).skipped, [])
  assert.equal(planned({ ...asked, override: false, moved: ['latest'] }).skipped.length, 1)
  // By another tag it may come.
  const both = contentOf({ a: {}, b: { tags: ['latest', 'v2'] } })
  const every = [{ type: 'tag', value: '?*' }]
  const plan = planned({ content: both, current, filters: every, override: false })
  assert.equal(plan.wanted, 'a:latest b:v2')
})

test('a rule that nobody runs keeps what its filters still choose, by the tags of then', () => {
  const content = contentOf({
    a: {},
    b: { tags: ['v1', 'v9'] },
    c: { tags: ['v2'] },
    d: { subject: digest('a') },
    e: { subject: digest('c') },
  })
  const current = [selection('a', ['v1']), selection('c', ['v2']), selection('d')]
  const asked = { content, current, frozen: true }
  assert.equal(planned(asked).wanted, 'a:v1 c:v2 d')
  assert.equal(planned({ ...asked, filters: [{ type: 'newest', value: 2 }] }).wanted, 'a:v1 c:v2 d')
  assert.equal(planned({ ...asked, filters: [{ type: 'tag', value: 'v2' }] }).wanted, 'c:v2')
})
