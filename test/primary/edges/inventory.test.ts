import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import { createEdgeStates, type EdgeState } from '../../../primary/store/edge-states.ts'
import { createEvents } from '../../../primary/store/events.ts'
import { startAdmin, type Admin } from '../../kit/admin.ts'

interface ShownEdge {
  readonly id: string
  readonly state: string
  readonly status?: Readonly<Record<string, unknown>>
}

interface ShownExposure {
  readonly projects: readonly string[]
  readonly robots: readonly { readonly name: string; readonly project?: string }[]
  readonly accept_people: boolean
}

const prefix = '/api/v2.0'

async function startWithEdges(
  t: TestContext,
  scopes: Readonly<Record<string, readonly string[]>>,
): Promise<Admin> {
  const admin = await startAdmin(t)
  for (const name of ['own', 'more', 'other'])
    await admin.bootstrap.ensureProject(name, { public: name === 'other' })
  for (const [id, scope] of Object.entries(scopes))
    await admin.bootstrap.ensureEdge({
      id,
      name: id,
      secret: `Secret-of-the-edge-${id}-1`,
      scope,
      acceptPeople: false,
    })
  return admin
}

/** Numbers what waits. @returns where the log ends */
async function numberEvents(admin: Admin): Promise<number> {
  const { seq } = await createEvents(admin.records)
    .number(() => ({ payloadType: '', payload: '', signatures: [] }))
    .then(() => createEvents(admin.records).head())
  return seq
}

function stateOf(edgeId: string, seq: number, changes: Partial<EdgeState> = {}): EdgeState {
  const report = {
    version: '1.2.3',
    clock: Date.now(),
    cacheBytes: 10,
    cacheSizeBytes: 100,
    hits: 3,
    misses: 1,
    servedBytes: 40,
    url: '',
    lastError: '',
    failures: [],
  }
  const place = { applied: { epoch: 1, seq }, heldSeq: seq, waitingBytes: 0 }
  return { edgeId, ...place, seenAt: new Date(), report, ...changes }
}

test('edges are shown as they last said they are', async (t) => {
  const ids = ['away', 'behind', 'joining', 'ready', 'stopped']
  const admin = await startWithEdges(t, Object.fromEntries(ids.map((id) => [id, ['*']])))
  const head = await numberEvents(admin)
  await admin.records
    .updateTable('events')
    .set({ at: new Date(Date.now() - 200_000) })
    .execute()
  await createEdgeStates(admin.records).put([
    stateOf('ready', head),
    stateOf('behind', head - 2, { heldSeq: head - 3, waitingBytes: 7 }),
    stateOf('away', head, { seenAt: new Date(Date.now() - 190_000) }),
    stateOf('stopped', head),
  ])
  await admin.asAdmin(`${prefix}/edges/stopped/suspend`, { method: 'POST' })
  const { body } = await admin.asAdmin(`${prefix}/edges`)
  const listed = body as readonly ShownEdge[]
  assert.deepEqual(
    listed.map(({ id, state }) => [id, state]),
    [
      ['away', 'away'],
      ['behind', 'degraded'],
      ['joining', 'joining'],
      ['ready', 'ready'],
      ['stopped', 'suspended'],
    ],
  )
  assert.equal(listed[2]?.status, undefined)
  const { last_seen: lastSeen, clock_skew_ms: skew, ...ready } = listed[3]?.status ?? {}
  assert.ok(Math.abs(Date.parse(String(lastSeen)) - Date.now()) < 60_000)
  assert.ok(Math.abs(Number(skew)) < 1000)
  assert.deepEqual(ready, {
    version: '1.2.3',
    lag_events: 0,
    lag_seconds: 0,
    held_lag_events: 0,
    waiting_bytes: 0,
    cache_bytes: 10,
    cache_size_bytes: 100,
    hit_ratio: 0.75,
    served_bytes: 40,
    last_error: '',
    failures: 0,
  })
  const { lag_seconds: lag, ...behind } = listed[1]?.status ?? {}
  assert.ok(Number(lag) >= 200 && Number(lag) < 260, String(lag))
  assert.deepEqual(
    [behind['lag_events'], behind['held_lag_events'], behind['waiting_bytes']],
    [2, 3, 7],
  )
  const one = await admin.asAdmin(`${prefix}/edges/behind`)
  assert.equal((one.body as ShownEdge).state, 'degraded')
  assert.equal((one.body as ShownEdge).status?.['lag_events'], 2)
})

test('what an edge exposes is its projects, and the robots that may pull from one of them', async (t) => {
  const admin = await startWithEdges(t, { all: ['*'], some: ['own'], public: ['other'] })
  const robot = async (
    name: string,
    level: string,
    namespaces: readonly (readonly [string, string])[],
    disable = false,
  ) => {
    const permissions = namespaces.map(([namespace, action]) => ({
      kind: 'project',
      namespace,
      access: [{ resource: 'repository', action }],
    }))
    const body = { name, level, duration: -1, disable, permissions }
    const made = await admin.asAdmin(`${prefix}/robots`, { method: 'POST', body })
    assert.equal(made.status, 201, JSON.stringify(made.body))
    return made.id
  }
  await robot('puller', 'project', [['own', 'pull']])
  await robot('pusher', 'project', [['own', 'push']])
  await robot('off', 'project', [['own', 'pull']], true)
  await robot('elsewhere', 'project', [['more', 'pull']])
  await robot('both', 'system', [
    ['more', 'pull'],
    ['own', 'pull'],
  ])
  await robot('every', 'system', [['*', 'pull']])
  await robot('writer', 'system', [['*', 'push']])
  const gone = await robot('gone', 'project', [['own', 'pull']])
  await admin.asAdmin(`${prefix}/robots/${gone}`, { method: 'DELETE' })
  const exposed = async (id: string) => {
    const answer = await admin.asAdmin(`${prefix}/edges/${id}/exposure`)
    assert.equal(answer.status, 200)
    const { projects, robots } = answer.body as ShownExposure
    return { projects, robots: robots.map(({ name, project }) => [name, project]) }
  }
  const { body } = await admin.asAdmin(`${prefix}/edges/some/exposure`)
  assert.equal((body as ShownExposure).accept_people, false)
  const ofOwn = [
    ['robot$own+puller', 'own'],
    ['robot$own+off', 'own'],
  ]
  const ofSystem = [
    ['robot$both', undefined],
    ['robot$every', undefined],
  ]
  assert.deepEqual(await exposed('some'), { projects: ['own'], robots: [...ofOwn, ...ofSystem] })
  assert.deepEqual(await exposed('public'), {
    projects: ['other'],
    robots: [['robot$every', undefined]],
  })
  assert.deepEqual(await exposed('all'), {
    projects: ['more', 'other', 'own'],
    robots: [...ofOwn, ['robot$more+elsewhere', 'more'], ...ofSystem],
  })
  assert.equal((await admin.asAdmin(`${prefix}/edges/none/exposure`)).status, 404)
})
