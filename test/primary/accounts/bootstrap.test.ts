import assert from 'node:assert/strict'
import { test } from 'node:test'
import { startAdmin } from '../../kit/admin.ts'

test('the first account is admin with the id 1, made once, whatever happened before', async (t) => {
  const { bootstrap, call, accounts } = await startAdmin(t)
  const again = await bootstrap.ensureAdmin({
    password: () => {
      throw new Error('nobody needs it')
    },
  })
  assert.equal(again, false)
  assert.equal((await accounts.findByName('admin'))?.id, 1)
  assert.equal((await call('/api/v2.0/users/current', { as: 'admin:Admin1234' })).status, 200)
})

test('a project is made once, and keeps what was changed of it', async (t) => {
  const { bootstrap, asAdmin } = await startAdmin(t)
  const id = await bootstrap.ensureProject('library', { public: true })
  const body = { metadata: { public: 'false' } }
  await asAdmin('/api/v2.0/projects/library', { method: 'PUT', body })
  assert.equal(await bootstrap.ensureProject('library', { public: true }), id)
  const shown = (await asAdmin('/api/v2.0/projects/library')).body as { metadata: unknown }
  assert.deepEqual(shown.metadata, { public: 'false' })
})

test('an edge is what the configuration says, and written only when it changed', async (t) => {
  const { bootstrap, edges, records } = await startAdmin(t)
  const id = await bootstrap.ensureProject('library', { public: true })
  const edge = { id: 'e1', name: 'one', secret: 'S'.repeat(32), scope: ['*'], acceptPeople: true }
  const events = async () =>
    (await records.selectFrom('outbox').select('body').execute()).filter(({ body }) =>
      body.includes('"edge"'),
    ).length
  assert.deepEqual(await bootstrap.ensureEdge(edge), { unknown: [], isRevoked: false })
  await bootstrap.ensureEdge(edge)
  assert.equal(await events(), 1)
  const { createdAt, updatedAt, ...known } = (await edges.get('e1')) ?? {}
  assert.deepEqual(known, {
    id: 'e1',
    name: 'one',
    scope: '*',
    acceptsPeople: true,
    site: '',
    region: '',
    labels: {},
    state: 'ready',
    enrolled: false,
    peerUrl: undefined,
    reason: '',
  })
  assert.deepEqual(createdAt, updatedAt)
  const narrow = { ...edge, scope: ['library', 'later'], secret: 'T'.repeat(32) }
  assert.deepEqual(await bootstrap.ensureEdge(narrow), { unknown: ['later'], isRevoked: false })
  assert.deepEqual((await edges.get('e1'))?.scope, [id])
  const stored = await records.selectFrom('edges').selectAll().execute()
  assert.ok(!JSON.stringify(stored).includes('TTTT'))
})
