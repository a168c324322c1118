import assert from 'node:assert/strict'
import { test } from 'node:test'
import { startAdmin, type Admin } from '../../kit/admin.ts'

const labels = '/api/v2.0/labels'

async function createProjects({ asAdmin }: Admin): Promise<void> {
  for (const project_name of ['lib', 'other']) {
    const body = { project_name }
    const answer = await asAdmin('/api/v2.0/projects', { method: 'POST', body })
    assert.equal(answer.status, 201)
  }
}

const inLib = { scope: 'p', project_id: 1 }

test('a label is created in its scope, shown, changed and deleted', async (t) => {
  const admin = await startAdmin(t)
  await createProjects(admin)
  const { asAdmin } = admin
  const create = (body: object) => asAdmin(labels, { method: 'POST', body })
  const made = await create({ name: 'prod', description: 'runs', color: '#61717D', ...inLib })
  assert.equal(made.status, 201)
  assert.equal(made.headers.get('location'), '/api/v2.0/labels/1')
  const { creation_time: creationTime, ...shown } = (await asAdmin(`${labels}/1`)).body as Record<
    string,
    unknown
  >
  assert.deepEqual(shown, {
    id: 1,
    name: 'prod',
    description: 'runs',
    color: '#61717D',
    scope: 'p',
    project_id: 1,
    update_time: creationTime,
  })
  assert.match(String(creationTime), /^\d{4}-.*Z$/)

  // A global label has no project, whatever the request says.
  assert.equal((await create({ name: 'prod', scope: 'g', project_id: 1 })).status, 201)
  const global = (await asAdmin(`${labels}/2`)).body as Record<string, unknown>
  assert.deepEqual([global['scope'], global['project_id'], global['color']], ['g', 0, ''])

  const change = { name: 'stage', description: '', color: '', scope: 'g', project_id: 2 }
  assert.equal((await asAdmin(`${labels}/1`, { method: 'PUT', body: change })).status, 200)
  const changed = (await asAdmin(`${labels}/1`)).body as Record<string, unknown>
  assert.deepEqual(
    [changed['name'], changed['scope'], changed['project_id']],
    ['stage', 'p', 1],
    'its scope stays',
  )
  assert.equal((await asAdmin(`${labels}/1`, { method: 'DELETE' })).status, 200)
  for (const method of ['GET', 'DELETE']) {
    assert.equal((await asAdmin(`${labels}/1`, { method })).status, 404)
  }
  assert.equal((await asAdmin(`${labels}/1`, { method: 'PUT', body: change })).status, 404)
  assert.equal((await asAdmin(`${labels}/x`)).status, 404)
})

test('a name is taken once in a scope, and free again when its label is deleted', async (t) => {
  const admin = await startAdmin(t)
  await createProjects(admin)
  const { asAdmin } = admin
  const statusOf = async (body: object) => (await asAdmin(labels, { method: 'POST', body })).status
  const places = [{ scope: 'g' }, inLib, { scope: 'p', project_id: 2 }]
  for (const place of places) assert.equal(await statusOf({ name: 'prod', ...place }), 201)
  for (const place of places) assert.equal(await statusOf({ name: 'prod', ...place }), 409)
  assert.equal(await statusOf({ name: 'Prod', scope: 'g' }), 201)
  const rename = { method: 'PUT', body: { name: 'prod' } }
  const made = await asAdmin(labels, { method: 'POST', body: { name: 'next', scope: 'g' } })
  assert.equal((await asAdmin(`${labels}/${made.id}`, rename)).status, 409)
  assert.equal((await asAdmin(`${labels}/1`, rename)).status, 200, 'its own name is its own')
  assert.equal((await asAdmin(`${labels}/1`, { method: 'DELETE' })).status, 200)
  assert.equal((await asAdmin(`${labels}/${made.id}`, rename)).status, 200)
  const together = await Promise.all(
    Array.from({ length: 6 }, () => statusOf({ name: 'race', ...inLib })),
  )
  assert.deepEqual(together.sort(), [201, 409, 409, 409, 409, 409])
})

test('what cannot be a label is refused with a reason', async (t) => {
  const admin = await startAdmin(t)
  await createProjects(admin)
  const wrong: [object, RegExp][] = [
    [{ name: '', scope: 'g' }, /name/],
    [{ name: ' ', scope: 'g' }, /name/],
    [{ name: 'x'.repeat(129), scope: 'g' }, /name/],
    [{ name: 'a\u0000', scope: 'g' }, /name/],
    [{ name: 7, scope: 'g' }, /name/],
    [{ scope: 'g' }, /name/],
    [{ name: 'a' }, /scope/],
    [{ name: 'a', scope: '' }, /scope/],
    [{ name: 'a', scope: 'x' }, /scope/],
    [{ name: 'a', scope: 'p' }, /project_id/],
    [{ name: 'a', scope: 'p', project_id: 0 }, /project_id/],
    [{ name: 'a', scope: 'p', project_id: 'lib' }, /project_id/],
    [{ name: 'a', scope: 'g', color: 'red;background:url(//x)' }, /color/],
  ]
  for (const [body, reason] of wrong) {
    const answer = await admin.asAdmin(labels, { method: 'POST', body })
    assert.equal(answer.status, 400, JSON.stringify(body))
    assert.match(JSON.stringify(answer.body), reason)
  }
  for (const project_id of [99, -1, 99_999_999_999]) {
    const body = { name: 'a', scope: 'p', project_id }
    assert.equal((await admin.asAdmin(labels, { method: 'POST', body })).status, 404)
  }
  const body = { name: 'a', scope: 'g' }
  assert.equal((await admin.asAdmin(labels, { method: 'POST', body })).status, 201)
  const change = { method: 'PUT', body: { name: '' } }
  assert.equal((await admin.asAdmin(`${labels}/1`, change)).status, 400)
  const form = { method: 'POST', body: 'name=a', headers: { 'Content-Type': 'text/plain' } }
  assert.equal((await admin.asAdmin(labels, form)).status, 415)
})

test('labels are listed by scope, in pages, by parts of their names and sorted', async (t) => {
  const admin = await startAdmin(t)
  await createProjects(admin)
  const { asAdmin, call } = admin
  for (const name of ['prod', 'pre-prod', 'test', 'P_1']) {
    assert.equal((await asAdmin(labels, { method: 'POST', body: { name, ...inLib } })).status, 201)
  }
  const global = { method: 'POST', body: { name: 'global', scope: 'g' } }
  assert.equal((await asAdmin(labels, global)).status, 201)
  const names = async (query: string) => {
    const answer = await asAdmin(`${labels}?${query}`)
    assert.equal(answer.status, 200, query)
    return (answer.body as { name: string }[]).map(({ name }) => name).join(' ')
  }
  const lib = 'scope=p&project_id=1'
  assert.equal(await names('scope=g'), 'global')
  assert.equal(await names(lib), 'prod pre-prod test P_1')
  assert.equal(await names('scope=p&project_id=2'), '')
  assert.equal(await names(`${lib}&name=PROD`), 'prod pre-prod')
  assert.equal(await names(`${lib}&name=_`), 'P_1')
  assert.equal(await names(`${lib}&name=`), 'prod pre-prod test P_1')
  assert.equal(await names(`${lib}&q=name=test`), 'test')
  assert.equal(await names(`${lib}&q=name=~e,id=[~2]`), 'pre-prod')
  assert.equal(await names(`${lib}&sort=-name`), 'test prod pre-prod P_1')
  const page = await asAdmin(`${labels}?${lib}&page_size=3`)
  assert.equal(page.headers.get('x-total-count'), '4')
  assert.equal((page.body as unknown[]).length, 3)
  assert.match(page.headers.get('link') ?? '', /project_id=1.*page=2.*rel="next"/)
  assert.equal(await names(`${lib}&page_size=3&page=2`), 'P_1')
  for (const query of ['', 'scope=x', 'scope=p', 'scope=p&project_id=0', `${lib}&q=secret=1`]) {
    assert.equal((await asAdmin(`${labels}?${query}`)).status, 400, query)
  }
  assert.equal((await asAdmin(`${labels}?${lib}&page_size=101`)).status, 422)
  assert.equal((await asAdmin(`${labels}?scope=p&project_id=99`)).status, 404)
  assert.equal((await call(`${labels}?${lib}`)).status, 401)
  assert.equal((await call(`${labels}?scope=g`)).status, 200)
})
