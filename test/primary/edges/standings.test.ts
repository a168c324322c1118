import assert from 'node:assert/strict'
import { before, test, type TestContext } from 'node:test'
import { createEdgeStates } from '../../../primary/store/edge-states.ts'
import { createEvents } from '../../../primary/store/events.ts'
import { createJoinTokens } from '../../../primary/store/join-tokens.ts'
import { rosterOf } from '../../../primary/store/edges.ts'
import { createRoster } from '../../../primary/store/roster.ts'
import { startAdmin, type Admin } from '../../kit/admin.ts'

interface ShownEdge {
  readonly id: string
  readonly state: string
  readonly reason?: string
  readonly enrolled: boolean
}

let admin: Admin
const deed = { actor: { username: '', address: '10.0.0.1' }, now: new Date() }

before(async (t) => {
  admin = await startAdmin(t as unknown as TestContext)
})

const declared = (id: string) => ({
  id,
  name: id,
  secret: `Secret-of-the-edge-${id}-1`,
  scope: ['*'],
  acceptPeople: false,
})

/** An edge that joined by a token, and said how it is. */
async function joinEdge(id: string): Promise<void> {
  const tokens = createJoinTokens(admin.records)
  const secretHash = Buffer.alloc(32)
  const order = {
    name: id,
    scope: '*',
    acceptsPeople: false,
    site: '',
    region: '',
    labels: {},
  } as const
  const expiresAt = new Date(Date.now() + 60_000)
  await tokens.create({ id: `token-${id}`, ...order, expiresAt }, secretHash, deed)
  const edge = await tokens.use(
    {
      tokenId: `token-${id}`,
      secretHash,
      name: id,
      publicKey: `key of ${id}`,
      newId: id,
      credentialHash: 'none',
    },
    deed,
  )
  assert.equal(edge?.id, id)
}

function report(edgeId: string, seq: number, says: object = {}): Promise<void> {
  const numbers = { clock: Date.now(), cacheBytes: 0, cacheSizeBytes: 0, hits: 0, misses: 0 }
  const texts = { version: '1', url: '', lastError: '', failures: [], servedBytes: 0 }
  return createEdgeStates(admin.records).put([
    {
      edgeId,
      applied: { epoch: 1, seq },
      heldSeq: 0,
      waitingBytes: 0,
      seenAt: new Date(),
      report: { ...numbers, ...texts, ...says },
    },
  ])
}

const post = async (id: string, action: string) => {
  const answer = await admin.asAdmin(`/api/v2.0/edges/${id}/${action}`, { method: 'POST' })
  return {
    status: answer.status,
    edge: answer.body as ShownEdge,
    text: JSON.stringify(answer.body),
  }
}
const stateOf = async (id: string) =>
  ((await admin.asAdmin(`/api/v2.0/edges/${id}`)).body as ShownEdge).state
const revoke = async (id: string) =>
  (await admin.asAdmin(`/api/v2.0/edges/${id}`, { method: 'DELETE' })).status

/** What was said of an edge in the log, oldest first; `all` that is not numbered yet. */
async function factsOf(id: string): Promise<readonly string[]> {
  const rows = await admin.records.selectFrom('outbox').select('body').orderBy('id').execute()
  return rows.flatMap(({ body }) => {
    const { fact } = JSON.parse(body) as {
      readonly fact: { type: string; edgeId?: string; suspended?: boolean; draining?: boolean }
    }
    if (fact.edgeId !== id) return []
    const marks = [fact.suspended === true && 'suspended', fact.draining === true && 'draining']
    return [[fact.type, ...marks.filter((mark) => mark !== false)].join(' ')]
  })
}

/** What the audit log says of an edge, oldest first. */
async function auditOf(id: string): Promise<readonly string[]> {
  const rows = await admin.records
    .selectFrom('audit')
    .select(['username', 'operation', 'description'])
    .where('resource', '=', id)
    .orderBy('id')
    .execute()
  return rows.map((row) => `${row.username} ${row.operation} ${row.description}`)
}

test('an edge drains, says that it is done, and is resumed', async () => {
  await joinEdge('leaves')
  await report('leaves', 0, { transfers: 3, draining: false })
  assert.equal((await post('leaves', 'drain')).edge.state, 'draining')
  await report('leaves', 0, { transfers: 3, draining: true })
  assert.equal(await stateOf('leaves'), 'draining')
  await report('leaves', 0, { transfers: 0, draining: true })
  assert.equal(await stateOf('leaves'), 'drained')
  const roster = await rosterOf(admin.records)
  assert.equal(roster.find(({ edgeId }) => edgeId === 'leaves')?.draining, true)
  const { head } = createEvents(admin.records)
  await report('leaves', (await head()).seq)
  assert.equal((await post('leaves', 'resume')).edge.state, 'ready')
  assert.deepEqual(await factsOf('leaves'), ['edge', 'edge draining', 'edge'])
  assert.deepEqual(await auditOf('leaves'), [
    ' create joined as leaves by the token token-leaves',
    'admin update draining',
    'admin update resumed',
  ])
})

test('a suspended edge is not drained: it would not hear of it', async () => {
  await joinEdge('stopped')
  await post('stopped', 'drain')
  assert.equal((await post('stopped', 'suspend')).edge.state, 'suspended')
  const { status, text } = await post('stopped', 'drain')
  assert.equal(status, 409)
  assert.match(text, /is suspended/)
  await post('stopped', 'resume')
  assert.equal(await stateOf('stopped'), 'joining', 'and the drain is over too')
})

test('a revoked edge stays on the list, gets nothing, and keeps its name until it is forgotten', async () => {
  await joinEdge('lost')
  await report('lost', 0)
  const early = await post('lost', 'forget')
  assert.equal(early.status, 409)
  assert.match(early.text, /outport edges revoke lost/)
  assert.equal(await revoke('lost'), 200)
  assert.equal(await revoke('lost'), 200, 'who was not answered says it again')
  assert.equal(await stateOf('lost'), 'revoked')
  assert.ok(!(await rosterOf(admin.records)).some(({ edgeId }) => edgeId === 'lost'))
  const members = await createRoster(admin.records).list()
  assert.ok(!members.some(({ edgeId }) => edgeId === 'lost'))
  assert.equal(await admin.edges.findByKey('lost', 'key of lost'), undefined)
  assert.equal(await admin.edges.findLogIn('edge$lost'), undefined)
  assert.equal(await admin.edges.getSecretHash('lost'), undefined)
  assert.equal(await admin.edges.bindKey('lost', 'key of lost', deed), undefined)
  for (const action of ['suspend', 'drain', 'resume']) {
    const { status, text } = await post('lost', action)
    assert.equal(status, 409, action)
    assert.match(text, /outport edges forget lost/)
  }
  const put = { method: 'PUT', body: { site: 'elsewhere' } }
  assert.equal((await admin.asAdmin('/api/v2.0/edges/lost', put)).status, 409)
  const rename = { method: 'PUT', body: { name: 'lost' } }
  await joinEdge('heir')
  const taken = await admin.asAdmin('/api/v2.0/edges/heir', rename)
  assert.equal(taken.status, 409)
  assert.match(JSON.stringify(taken.body), /outport edges forget lost/)
  assert.equal((await post('lost', 'forget')).status, 200)
  assert.equal((await admin.asAdmin('/api/v2.0/edges/heir', rename)).status, 200)
  assert.equal((await admin.asAdmin('/api/v2.0/edges/lost')).status, 404)
  assert.equal((await post('lost', 'forget')).status, 404)
  assert.deepEqual(await factsOf('lost'), ['edge', 'edge-deleted', 'edge-deleted'])
  assert.deepEqual((await auditOf('lost')).slice(1), [
    'admin delete revoked',
    'admin delete forgotten',
  ])
})

test('the machine of a revoked edge joins anew with the key that it has', async () => {
  await joinEdge('again')
  await revoke('again')
  const tokens = createJoinTokens(admin.records)
  const order = {
    name: 'anew',
    scope: '*',
    acceptsPeople: false,
    site: '',
    region: '',
    labels: {},
  } as const
  const secretHash = Buffer.alloc(32)
  const expiresAt = new Date(Date.now() + 60_000)
  await tokens.create({ id: 'token-anew', ...order, expiresAt }, secretHash, deed)
  const attempt = {
    tokenId: 'token-anew',
    secretHash,
    name: 'anew',
    publicKey: 'key of again',
    newId: 'anew',
    credentialHash: 'none',
  }
  assert.equal((await tokens.use(attempt, deed))?.id, 'anew')
})

test('an edge of the configuration that was revoked does not come back with the next start', async () => {
  const { bootstrap } = admin
  await bootstrap.ensureEdge(declared('named'))
  assert.equal(((await admin.asAdmin('/api/v2.0/edges/named')).body as ShownEdge).enrolled, false)
  await admin.edges.bindKey('named', 'key of named', deed)
  const { body } = await admin.asAdmin('/api/v2.0/edges/named')
  assert.equal((body as ShownEdge).enrolled, false, 'whatever it showed since')
  await revoke('named')
  const started = await bootstrap.ensureEdge({ ...declared('named'), scope: [] })
  assert.deepEqual(started, { unknown: [], isRevoked: true })
  assert.equal(await stateOf('named'), 'revoked')
  assert.equal((await post('named', 'resume')).edge.state, 'joining')
  assert.notEqual(await admin.edges.findLogIn('edge$named'), undefined)
  await revoke('named')
  await post('named', 'forget')
  await bootstrap.ensureEdge(declared('named'))
  assert.equal(await stateOf('named'), 'joining', 'a forgotten one begins anew')
  assert.notEqual(await admin.edges.bindKey('named', 'another key', deed), undefined)
})

test('an edge that never joined may be forgotten at once', async () => {
  await admin.bootstrap.ensureEdge(declared('unborn'))
  assert.equal((await post('unborn', 'forget')).status, 200)
  assert.equal(await admin.edges.findLogIn('edge$unborn'), undefined)
})

test('why the primary suspended an edge is shown and written down, and forgotten when it is resumed', async () => {
  await joinEdge('clone')
  const reason = 'two machines were this edge by turns'
  await admin.standings.suspend('clone', deed, { reason })
  const { body } = await admin.asAdmin('/api/v2.0/edges/clone')
  assert.deepEqual([(body as ShownEdge).state, (body as ShownEdge).reason], ['suspended', reason])
  assert.deepEqual((await auditOf('clone')).slice(1), [` update suspended: ${reason}`])
  assert.equal((await post('clone', 'resume')).edge.reason, undefined)
})
