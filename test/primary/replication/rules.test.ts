import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import { createEdges } from '../../../primary/store/edges.ts'
import { createEdgeStates } from '../../../primary/store/edge-states.ts'
import type { EventBody, EventFact } from '../../../shared/replication/events.ts'
import type { PrefetchFailure } from '../../../shared/replication/lease.ts'
import { waitFor } from '../../kit/clock.ts'
import { createImage, createIndex, pushImage, type Image } from '../../kit/images.ts'
import { startTestPrimary, type TestPrimary } from '../../kit/primary.ts'
import type { Answer, RegistryClient } from '../../kit/registry-client.ts'

// Rules for edges, from the push to what an edge says of it; the edges are rows, which say what a test wants.

let primary: TestPrimary
let client: RegistryClient

before(async () => {
  primary = await startTestPrimary()
  client = primary.client(primary.admin)
  await primary.createProject('apps', { isPublic: false })
  for (const [id, site] of [
    ['edge-berlin', 'berlin'],
    ['edge-paris', 'paris'],
  ] as const) {
    const edges = createEdges(primary.records)
    await edges.put(
      { id, name: id, scope: '*', acceptsPeople: false },
      {
        secretHash: 'hash',
        keepsKey: false,
        now: new Date(),
      },
    )
    await edges.change(id, { site }, { actor: { username: '', address: '' }, now: new Date() })
  }
})

interface Shown {
  readonly id: number
  readonly status: string
  readonly trigger: string
  readonly total: number
  readonly succeed: number
  readonly in_progress: number
  readonly failed: number
  readonly stopped: number
  readonly status_text: string
}

interface ShownTask {
  readonly id: number
  readonly status: string
  readonly edge: { readonly id: string; readonly name: string }
  readonly lag_events: number
  readonly waiting_bytes: number
  readonly status_text: string
}

async function call(method: string, path: string, body?: object): Promise<Answer> {
  return client.request(method, `/api/v2.0${path}`, {
    ...(body && {
      body: Buffer.from(JSON.stringify(body)),
      headers: { 'Content-Type': 'application/json' },
    }),
  })
}

async function get<Body>(path: string): Promise<Body> {
  const answer = await call('GET', path)
  assert.equal(answer.status, 200, `${path}: ${String(answer.body)}`)
  return answer.json() as Body
}

async function create(path: string, body: object): Promise<number> {
  const answer = await call('POST', path, body)
  assert.equal(answer.status, 201, String(answer.body))
  return Number(/\d+$/.exec(answer.headers.location ?? '')?.[0])
}

let names = 0

/** A rule for images of a repository of its own, to the edges of Berlin. */
async function createRule({
  filters = [],
  sites = ['berlin'],
  ...rest
}: {
  readonly filters?: readonly object[]
  readonly sites?: readonly string[]
  readonly trigger?: object
  readonly deletion?: boolean
  readonly override?: boolean
  readonly enabled?: boolean
  readonly single_active_replication?: boolean
} = {}) {
  const name = `rule-${++names}`
  const group = { name, type: 'outport-edges', selector: { sites } }
  const registry = await create('/registries', group)
  const repository = `apps/${name}`
  const body = {
    name,
    dest_registry: { id: registry },
    filters: [{ type: 'name', value: repository }, ...filters],
    trigger: { type: 'event_based' },
    override: true,
    enabled: true,
    ...rest,
  }
  const id = await create('/replication/policies', body)
  const change = async (changes: object) => {
    const answer = await call('PUT', `/replication/policies/${id}`, { ...body, ...changes })
    assert.equal(answer.status, 200, String(answer.body))
  }
  const push = async (image: Image, tag: string) => {
    await pushImage(client, repository, image, tag)
    return image.manifest.digest
  }
  return { id, registry, repository, change, push }
}

const executionsOf = (id: number) => get<Shown[]>(`/replication/executions?policy_id=${id}`)
const tasksOf = (id: number) => get<ShownTask[]>(`/replication/executions/${id}/tasks`)

/** What a rule selects now. */
async function selected(id: number): Promise<readonly string[]> {
  const rows = await primary.records
    .selectFrom('rule_selections')
    .select('digest')
    .where('rule_id', '=', id)
    .where('stopped', '=', false)
    .execute()
  return rows.map(({ digest }) => digest).sort()
}

async function waitSelected(id: number, digests: readonly string[]): Promise<void> {
  const wanted = [...digests].sort()
  await waitFor(`rule ${id} to select ${wanted.join(' ')}`, async () => {
    const now = await selected(id)
    return now.length === wanted.length && now.every((digest, index) => digest === wanted[index])
  })
}

/** Waits until all that was written has been followed. */
async function settle(): Promise<void> {
  await waitFor('the rules to have followed the log', async () => {
    const { records } = primary
    const waiting = await records.selectFrom('outbox').select('id').executeTakeFirst()
    const head = await records.selectFrom('event_head').select('seq').executeTakeFirstOrThrow()
    const cursor = await records.selectFrom('log_cursors').select('seq').executeTakeFirstOrThrow()
    return waiting === undefined && head.seq === cursor.seq
  })
}

/** The facts of the log about a rule, in order. */
async function factsOf(id: number): Promise<readonly EventFact[]> {
  const rows = await primary.records.selectFrom('events').select('body').orderBy('seq').execute()
  return rows
    .map(({ body }) => (JSON.parse(body) as EventBody).fact)
    .filter((fact) => 'ruleId' in fact && fact.ruleId === id)
}

/** An edge says that it holds everything, or how far it is. */
async function report(
  edgeId: string,
  {
    seq,
    failures = [],
    waitingBytes = 0,
  }: {
    readonly seq?: number
    readonly failures?: readonly PrefetchFailure[]
    readonly waitingBytes?: number
  } = {},
): Promise<void> {
  const head = await primary.records
    .selectFrom('event_head')
    .select(['epoch', 'seq'])
    .executeTakeFirstOrThrow()
  const heldSeq = seq ?? head.seq
  const said = { version: '', clock: 0, cacheBytes: 0, cacheSizeBytes: 0, hits: 0, misses: 0 }
  await createEdgeStates(primary.records).put([
    {
      edgeId,
      applied: head,
      heldSeq,
      waitingBytes,
      seenAt: new Date(),
      report: { ...said, servedBytes: 0, url: '', lastError: '', failures },
    },
  ])
}

async function waitPlaced(id: number): Promise<void> {
  await waitFor('the execution to have its place in the log', async () => {
    const row = await primary.records
      .selectFrom('executions')
      .select('seq')
      .where('id', '=', id)
      .executeTakeFirst()
    return row !== undefined && row.seq !== null
  })
}

test('a push selects what it brings, in one execution with a task for each edge of the group', async () => {
  const rule = await createRule()
  const digest = await rule.push(createImage({ seed: 'pushed' }), 'v1')
  await waitSelected(rule.id, [digest])
  await settle()
  const [execution, ...others] = await executionsOf(rule.id)
  assert.ok(execution)
  assert.deepEqual(others, [])
  await waitPlaced(execution.id)
  const { status, trigger, total, in_progress: inProgress } = execution
  assert.deepEqual([status, trigger, total, inProgress], ['InProgress', 'event_based', 1, 1])
  const facts = await factsOf(rule.id)
  const place = { projectId: 2, repositoryId: (facts[1] as { repositoryId: number }).repositoryId }
  assert.deepEqual(
    facts.map(({ type }) => type),
    ['rule', 'selected'],
  )
  assert.deepEqual(facts[1], { type: 'selected', ...place, ruleId: rule.id, digest })

  await report('edge-berlin', { seq: 1, waitingBytes: 77 })
  const [task, ...more] = await tasksOf(execution.id)
  assert.ok(task)
  assert.deepEqual(more, [])
  assert.equal(task.edge.name, 'edge-berlin')
  assert.equal(Math.floor(task.id / 2 ** 20), execution.id)
  assert.deepEqual([task.status, task.waiting_bytes], ['InProgress', 77])
  assert.ok(task.lag_events > 0)
  const log = await call('GET', `/replication/executions/${execution.id}/tasks/${task.id}/log`)
  assert.match(String(log.headers['content-type']), /^text\/plain/)
  assert.match(String(log.body), new RegExp(`brings ${rule.repository}:v1@${digest}`))
  assert.match(String(log.body), /edge-berlin is \d+ events behind, with 77 bytes to fetch/)

  await report('edge-berlin')
  const [done] = await tasksOf(execution.id)
  assert.deepEqual([done?.status, done?.lag_events], ['Succeed', 0])
  const ended = await get<Shown[]>(`/replication/executions?policy_id=${rule.id}&status=Succeed`)
  assert.deepEqual(
    ended.map(({ id, succeed }) => [id, succeed]),
    [[execution.id, 1]],
  )
})

test('a label that is attached later selects, and one that is taken off takes back', async () => {
  const rule = await createRule({ filters: [{ type: 'label', value: ['ready'] }] })
  const digest = await rule.push(createImage({ seed: 'labelled' }), 'v1')
  await settle()
  assert.deepEqual(await selected(rule.id), [])
  const label = await create('/labels', { name: 'ready', scope: 'g' })
  const [project, name = ''] = rule.repository.split('/')
  const labels = `/projects/${project}/repositories/${name}/artifacts/v1/labels`
  assert.equal((await call('POST', labels, { id: label })).status, 200)
  await waitSelected(rule.id, [digest])
  // Its name is what the rule looks for.
  assert.equal((await call('PUT', `/labels/${label}`, { name: 'other' })).status, 200)
  await waitSelected(rule.id, [])
  assert.equal((await call('PUT', `/labels/${label}`, { name: 'ready' })).status, 200)
  await waitSelected(rule.id, [digest])
  assert.equal((await call('DELETE', `${labels}/${label}`)).status, 200)
  await waitSelected(rule.id, [])
})

test('the newest N leave what was before them', async () => {
  const rule = await createRule({ filters: [{ type: 'newest', value: 2 }] })
  const digests: string[] = []
  for (const tag of ['v1', 'v2', 'v3']) {
    digests.push(await rule.push(createImage({ seed: `newest ${tag}` }), tag))
    await waitSelected(rule.id, digests.slice(-2))
  }
  await settle()
  const facts = await factsOf(rule.id)
  assert.deepEqual(
    facts.slice(-2).map((fact) => [fact.type, 'digest' in fact && fact.digest]),
    [
      ['selected', digests[2]],
      ['unselected', digests[0]],
    ],
  )
  assert.equal((await executionsOf(rule.id)).length, 3)
})

test('an index comes as one, and what is attached to an image comes with it', async () => {
  const rule = await createRule()
  const children = ['amd64', 'arm64'].map((seed) => createImage({ seed: `index ${seed}` }))
  const index = createIndex({ children })
  const digest = await rule.push(index, 'v1')
  await waitSelected(rule.id, [digest])
  await settle()
  assert.equal((await executionsOf(rule.id)).length, 1)
  const [child] = children
  assert.ok(child)
  const signature = createImage({ seed: 'signature', subject: index.manifest })
  await pushImage(client, rule.repository, signature)
  const ofChild = createImage({ seed: 'of a child', subject: child.manifest })
  await pushImage(client, rule.repository, ofChild)
  await waitSelected(rule.id, [digest, signature.manifest.digest, ofChild.manifest.digest])
})

test('without override a tag that moves stays what it was, and the log says so', async () => {
  const rule = await createRule({ override: false, filters: [{ type: 'tag', value: '**' }] })
  const first = await rule.push(createImage({ seed: 'first' }), 'latest')
  await waitSelected(rule.id, [first])
  await rule.push(createImage({ seed: 'second' }), 'latest')
  await settle()
  assert.deepEqual(await selected(rule.id), [first])
  const [execution] = await executionsOf(rule.id)
  const [task] = await tasksOf(execution?.id ?? 0)
  const path = `/replication/executions/${execution?.id ?? 0}/tasks/${task?.id ?? 0}/log`
  assert.match(String((await call('GET', path)).body), /skipped .*latest.*override is off/)
  const third = await rule.push(createImage({ seed: 'third' }), 'v3')
  await waitSelected(rule.id, [first, third])
})

test('with deletion a deleted tag takes back what it selected, without it the manifest decides', async () => {
  for (const deletion of [true, false]) {
    const filters = [{ type: 'tag', value: '?*' }]
    const rule = await createRule({ deletion, filters })
    const digest = await rule.push(createImage({ seed: `deleted ${String(deletion)}` }), 'v1')
    await waitSelected(rule.id, [digest])
    const path = `/v2/${rule.repository}/manifests`
    assert.equal((await client.request('DELETE', `${path}/v1`)).status, 202)
    await settle()
    if (deletion) await waitSelected(rule.id, [])
    else {
      assert.deepEqual(await selected(rule.id), [digest])
      assert.equal((await client.request('DELETE', `${path}/${digest}`)).status, 202)
      await waitSelected(rule.id, [])
    }
  }
})

test('a run by hand brings what a manual rule selects, and a change of its filters takes back', async () => {
  const rule = await createRule({ trigger: { type: 'manual' } })
  const [one, two] = [
    await rule.push(createImage({ seed: 'one' }), 'v1'),
    await rule.push(createImage({ seed: 'two' }), 'v2'),
  ]
  await settle()
  assert.deepEqual(await selected(rule.id), [])
  const preview = await call('POST', '/replication/executions', {
    policy_id: rule.id,
    dry_run: true,
  })
  assert.equal(preview.status, 200)
  const shown = preview.json() as {
    total: number
    artifacts: { digest: string; state: string; tags: string[]; size: number }[]
    edges: { name: string; artifacts: number; bytes: number }[]
  }
  assert.deepEqual(
    shown.artifacts.map(({ digest, state, tags }) => [digest, state, tags]),
    [
      [one, 'new', ['v1']],
      [two, 'new', ['v2']],
    ],
  )
  const bytes = shown.artifacts.reduce((sum, { size }) => sum + size, 0)
  assert.ok(bytes > 4096)
  assert.deepEqual(
    shown.edges.map((edge) => [edge.name, edge.artifacts, edge.bytes]),
    [['edge-berlin', 2, bytes]],
  )
  assert.deepEqual(await executionsOf(rule.id), [])
  const execution = await create('/replication/executions', { policy_id: rule.id })
  await waitSelected(rule.id, [one, two])
  await waitPlaced(execution)
  await report('edge-berlin')
  assert.equal((await get<Shown>(`/replication/executions/${execution}`)).status, 'Succeed')
  await rule.push(createImage({ seed: 'three' }), 'v3')
  await settle()
  assert.deepEqual(await selected(rule.id), [one, two].sort())
  const name = { type: 'name', value: rule.repository }
  await rule.change({ filters: [name, { type: 'tag', value: 'v{2,3}' }] })
  await waitSelected(rule.id, [two])
})

test('a rule that follows brings what was there before it, and a disabled one nothing', async () => {
  const rule = await createRule({ enabled: false })
  const digest = await rule.push(createImage({ seed: 'disabled' }), 'v1')
  await settle()
  assert.deepEqual(await selected(rule.id), [])
  const refused = await call('POST', '/replication/executions', { policy_id: rule.id })
  assert.equal(refused.status, 412)
  assert.match(String(refused.body), /the policy \d+ is disabled/)
  await rule.change({ enabled: true })
  await waitSelected(rule.id, [digest])
  const [execution] = await executionsOf(rule.id)
  assert.equal((await call('DELETE', `/replication/policies/${rule.id}`)).status, 412)
  await rule.change({ enabled: false })
  const stopped = await get<Shown>(`/replication/executions/${execution?.id ?? 0}`)
  assert.deepEqual([stopped.status, stopped.status_text], ['Stopped', 'the rule was disabled'])
  assert.equal((await call('DELETE', `/replication/policies/${rule.id}`)).status, 200)
  assert.equal((await call('GET', `/replication/policies/${rule.id}`)).status, 404)
  assert.deepEqual(await selected(rule.id), [])
  await settle()
  const types = (await factsOf(rule.id)).map(({ type }) => type)
  assert.deepEqual(types, ['rule', 'rule', 'selected', 'rule', 'rule-deleted'])
})

test('what is stopped is taken back until somebody runs the rule by hand', async () => {
  const rule = await createRule({ sites: ['berlin', 'paris'] })
  const first = await rule.push(createImage({ seed: 'to be stopped' }), 'v1')
  await waitSelected(rule.id, [first])
  const [execution] = await executionsOf(rule.id)
  const id = execution?.id ?? 0
  await waitPlaced(id)
  await report('edge-paris')
  await report('edge-berlin', { seq: 0 })
  assert.equal((await call('PUT', `/replication/executions/${id}`)).status, 200)
  const shown = await get<Shown>(`/replication/executions/${id}`)
  assert.deepEqual([shown.status, shown.succeed, shown.stopped], ['Stopped', 1, 1])
  assert.deepEqual(await selected(rule.id), [])
  const tasks = await get<ShownTask[]>(`/replication/executions/${id}/tasks?sort=edge`)
  assert.deepEqual(
    tasks.map(({ status }) => status),
    ['Stopped', 'Succeed'],
  )
  const some = await get<ShownTask[]>(`/replication/executions/${id}/tasks?status=Stopped`)
  assert.deepEqual(
    some.map(({ edge }) => edge.name),
    ['edge-berlin'],
  )
  const second = await rule.push(createImage({ seed: 'after the stop' }), 'v2')
  await waitSelected(rule.id, [second])
  await create('/replication/executions', { policy_id: rule.id })
  await waitSelected(rule.id, [first, second])
  assert.equal((await call('PUT', '/replication/executions/999999')).status, 404)
})

test('what an edge could not get fails its task, and a run by hand asks for it again', async () => {
  const rule = await createRule()
  const digest = await rule.push(createImage({ seed: 'too large' }), 'v1')
  await waitSelected(rule.id, [digest])
  const [execution] = await executionsOf(rule.id)
  const id = execution?.id ?? 0
  await waitPlaced(id)
  const fact = (await factsOf(rule.id)).at(-1) as { repositoryId: number }
  const { repositoryId } = fact
  const failures = [{ ruleId: rule.id, repositoryId, digest, reason: 'NO_SPACE' }]
  await report('edge-berlin', { failures })
  const [task] = await tasksOf(id)
  assert.equal(task?.status, 'Failed')
  assert.match(task.status_text, /NO_SPACE/)
  const failed = await get<Shown[]>(`/replication/executions?policy_id=${rule.id}&status=Failed`)
  assert.deepEqual(
    failed.map((one) => [one.id, one.failed]),
    [[id, 1]],
  )
  const again = await create('/replication/executions', { policy_id: rule.id })
  await waitPlaced(again)
  await settle()
  const facts = (await factsOf(rule.id)).filter(({ type }) => type === 'selected')
  assert.equal(facts.length, 2)
  await report('edge-berlin')
  assert.equal((await get<Shown>(`/replication/executions/${again}`)).status, 'Succeed')
  // What was is not rewritten.
  assert.equal((await get<Shown>(`/replication/executions/${id}`)).status, 'Failed')
})

test('edges that may not read the project have no task, and groups follow where edges are', async () => {
  const rule = await createRule({ sites: ['rome'] })
  const edges = createEdges(primary.records)
  const deed = { actor: { username: '', address: '' }, now: new Date() }
  const put = (id: string, scope: '*' | readonly number[]) =>
    edges.put(
      { id, name: id, scope, acceptsPeople: false },
      {
        secretHash: 'hash',
        keepsKey: false,
        now: new Date(),
      },
    )
  await put('edge-rome', '*')
  await put('edge-vatican', [1])
  for (const id of ['edge-rome', 'edge-vatican']) await edges.change(id, { site: 'rome' }, deed)
  const members = await get<{ name: string }[]>(`/registries/${rule.registry}/edges`)
  assert.deepEqual(
    members.map(({ name }) => name),
    ['edge-rome', 'edge-vatican'],
  )
  const digest = await rule.push(createImage({ seed: 'rome' }), 'v1')
  await waitSelected(rule.id, [digest])
  const [execution] = await executionsOf(rule.id)
  const tasks = await tasksOf(execution?.id ?? 0)
  assert.deepEqual(
    tasks.map(({ edge }) => edge.name),
    ['edge-rome'],
  )
  await edges.change('edge-rome', { site: 'milan' }, deed)
  const left = await get<{ name: string }[]>(`/registries/${rule.registry}/edges`)
  assert.deepEqual(
    left.map(({ name }) => name),
    ['edge-vatican'],
  )
})

test('the last 50 executions of a rule are kept', async () => {
  const rule = await createRule()
  const former = Array.from({ length: 55 }, () => ({
    vendor_type: 'REPLICATION' as const,
    vendor_id: rule.id,
    trigger: 'manual' as const,
    status: 'Succeed' as const,
  }))
  await primary.records.insertInto('executions').values(former).execute()
  const newest = await create('/replication/executions', { policy_id: rule.id })
  const answer = await call('GET', `/replication/executions?policy_id=${rule.id}&page_size=20`)
  assert.equal(answer.headers['x-total-count'], '50')
  assert.match(String(answer.headers.link), /page=2.*rel="next"/)
  assert.equal((answer.json() as Shown[])[0]?.id, newest)
})
