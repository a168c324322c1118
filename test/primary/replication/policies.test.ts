import assert from 'node:assert/strict'
import { test } from 'node:test'
import { startAdmin, type Admin } from '../../kit/admin.ts'

const registries = '/api/v2.0/registries'
const policies = '/api/v2.0/replication/policies'
const executions = '/api/v2.0/replication/executions'

type Shown = Record<string, unknown>

const group = { name: 'berlin', type: 'outport-edges', selector: { sites: ['berlin'] } }

async function refuses(
  admin: Admin,
  {
    method = 'POST',
    path,
    body,
    status = 400,
  }: {
    readonly method?: string
    readonly path: string
    readonly body: object
    readonly status?: number
  },
  message: RegExp,
): Promise<void> {
  const answer = await admin.asAdmin(path, { method, body })
  assert.equal(answer.status, status, JSON.stringify([body, answer.body]))
  assert.match(JSON.stringify(answer.body), message)
}

test('a group of edges is created, shown, listed, changed and deleted', async (t) => {
  const admin = await startAdmin(t)
  const { asAdmin } = admin
  const created = await asAdmin(registries, { method: 'POST', body: { ...group, url: '' } })
  assert.equal(created.status, 201)
  const path = `${registries}/${created.id}`
  const {
    creation_time: creation,
    update_time: update,
    ...shown
  } = (await asAdmin(path)).body as Shown
  assert.match(`${String(creation)} ${String(update)}`, /^\d{4}-.*Z \d{4}-.*Z$/)
  assert.deepEqual(shown, {
    id: created.id,
    name: 'berlin',
    type: 'outport-edges',
    url: '',
    description: '',
    insecure: false,
    credential: null,
    status: 'healthy',
    selector: { sites: ['berlin'] },
  })
  const body = { description: 'the lab', selector: { regions: ['eu-*'], labels: { tier: 'gold' } } }
  assert.equal((await asAdmin(path, { method: 'PUT', body })).status, 200)
  const changed = (await asAdmin(path)).body as Shown
  assert.deepEqual([changed['name'], changed['selector']], ['berlin', body.selector])
  for (const query of ['name=BER', 'q=name=berlin', 'q=type=outport-edges', 'sort=-name']) {
    assert.equal(((await asAdmin(`${registries}?${query}`)).body as Shown[]).length, 1, query)
  }
  assert.equal(((await asAdmin(`${registries}?name=x`)).body as Shown[]).length, 0)
  assert.equal(
    (await asAdmin(`${registries}/ping`, { method: 'POST', body: { id: created.id } })).status,
    200,
  )
  assert.equal((await asAdmin(`${registries}/ping`, { method: 'POST', body: group })).status, 200)
  assert.equal(
    (await asAdmin(`${registries}/ping`, { method: 'POST', body: { id: 99 } })).status,
    404,
  )
  const { supported_triggers: triggers } = (await asAdmin(`${path}/info`)).body as Shown
  assert.deepEqual(triggers, ['manual', 'event_based'])
  assert.equal(((await asAdmin(`${registries}/0/info`)).body as Shown)['type'], 'harbor')
  assert.deepEqual((await asAdmin('/api/v2.0/replication/adapters')).body, ['outport-edges'])
  assert.deepEqual((await asAdmin('/api/v2.0/replication/adapterinfos')).body, {
    'outport-edges': { endpoint_pattern: null, credential_pattern: null },
  })
  assert.equal((await asAdmin(path, { method: 'DELETE' })).status, 200)
  for (const method of ['GET', 'DELETE']) {
    assert.equal((await asAdmin(path, { method })).status, 404, method)
  }
})

test('what no group of edges can be is refused in words', async (t) => {
  const admin = await startAdmin(t)
  const create = (body: object, message: RegExp, status = 400) =>
    refuses(admin, { path: registries, body, status }, message)
  await create({ ...group, type: 'harbor' }, /type must be outport-edges/)
  await create({ name: 'a', type: 'outport-edges' }, /selector must say which edges/)
  await create({ ...group, selector: { site: ['berlin'] } }, /selector/)
  await create({ ...group, selector: { sites: [] } }, /selector\.sites/)
  await create({ ...group, selector: { names: ['{a'] } }, /selector\.names\[0\]/)
  await create({ ...group, selector: { names: ['a\u0000'] } }, /selector/)
  await create({ ...group, selector: { labels: { 'a\u0000': 'b' } } }, /selector/)
  await create({ ...group, selector: { labels: { a: '{' } } }, /selector\.labels\.a/)
  await create({ ...group, credential: { access_key: 'a', access_secret: 'b' } }, /credential/)
  await create({ ...group, name: '' }, /name/)
  assert.equal((await admin.asAdmin(registries, { method: 'POST', body: group })).status, 201)
  await create(group, /exists already/, 409)
  const other = await admin.asAdmin(registries, { method: 'POST', body: { ...group, name: 'b' } })
  const path = `${registries}/${other.id}`
  const method = 'PUT'
  await refuses(admin, { method, path, body: { name: 'berlin' }, status: 409 }, /exists already/)
  await refuses(admin, { method, path, body: { access_secret: 'x' } }, /credential/)
})

test('a rule is created, shown as Harbor shows it, changed and deleted', async (t) => {
  const { asAdmin, records } = await startAdmin(t)
  const registry = await asAdmin(registries, { method: 'POST', body: group })
  const filters = [
    { type: 'name', value: 'lib/**' },
    { type: 'tag', value: 'v*', decoration: 'excludes' },
    { type: 'label', value: ['prod'], decoration: 'matches' },
    { type: 'newest', value: 3 },
    { type: 'platform', value: ['linux/amd64'] },
  ]
  const rule = {
    name: 'to-berlin',
    src_registry: null,
    dest_registry: { id: registry.id },
    dest_namespace: '',
    filters,
    trigger: { type: 'event_based', trigger_settings: { cron: '' } },
    replicate_deletion: true,
    override: true,
    enabled: true,
    speed: -1,
    serve: 'complete',
  }
  const created = await asAdmin(policies, { method: 'POST', body: rule })
  assert.equal(created.status, 201)
  const path = `${policies}/${created.id}`
  const shown = (await asAdmin(path)).body as Shown
  const { src_registry: source, dest_registry: destination, ...rest } = shown
  assert.deepEqual([(source as Shown)['id'], (source as Shown)['name']], [0, 'Local'])
  assert.equal((destination as Shown)['id'], registry.id)
  assert.deepEqual(rest, {
    id: created.id,
    name: 'to-berlin',
    description: '',
    dest_namespace: '',
    dest_namespace_replace_count: -1,
    filters,
    trigger: { type: 'event_based', trigger_settings: { cron: '' } },
    deletion: true,
    replicate_deletion: true,
    override: true,
    enabled: true,
    speed: 0,
    copy_by_chunk: false,
    single_active_replication: false,
    serve: 'complete',
    creation_time: rest['creation_time'],
    update_time: rest['update_time'],
  })
  // What is shown may be sent back.
  const back = { ...shown, description: 'for the lab', enabled: false }
  assert.equal((await asAdmin(path, { method: 'PUT', body: back })).status, 200)
  const changed = (await asAdmin(path)).body as Shown
  assert.deepEqual([changed['description'], changed['enabled']], ['for the lab', false])
  for (const query of [
    'name=berlin',
    'q=name=to-berlin',
    'sort=-creation_time',
    'q=enabled=false',
  ]) {
    assert.equal(((await asAdmin(`${policies}?${query}`)).body as Shown[]).length, 1, query)
  }
  assert.equal((await asAdmin(`${policies}?q=filters=x`)).status, 400)
  const used = await asAdmin(`${registries}/${registry.id}`, { method: 'DELETE' })
  assert.equal(used.status, 412)
  assert.match(JSON.stringify(used.body), /used by the replication rule to-berlin/)
  const bodies = await records.selectFrom('outbox').select('body').orderBy('id').execute()
  const fact = (JSON.parse(bodies.at(-1)?.body ?? '') as { fact: Shown }).fact
  assert.deepEqual(fact, {
    type: 'rule',
    ruleId: created.id,
    name: 'to-berlin',
    enabled: false,
    selector: { sites: ['berlin'] },
    serve: 'complete',
    platforms: ['linux/amd64'],
  })
  const selector = { sites: ['paris'] }
  const moved = { method: 'PUT', body: { selector } }
  assert.equal((await asAdmin(`${registries}/${registry.id}`, moved)).status, 200)
  const later = await records.selectFrom('outbox').select('body').orderBy('id', 'desc').execute()
  assert.match(later[0]?.body ?? '', /"selector":\{"sites":\["paris"\]\}/)
  assert.equal((await asAdmin(path, { method: 'DELETE' })).status, 200)
  for (const method of ['GET', 'DELETE']) {
    assert.equal((await asAdmin(path, { method })).status, 404, method)
  }
})

test('what a rule cannot do is refused in words, and never dropped', async (t) => {
  const admin = await startAdmin(t)
  const { id } = await admin.asAdmin(registries, { method: 'POST', body: group })
  const rule = { name: 'rule', dest_registry: { id }, enabled: true }
  const create = (changes: object, message: RegExp, status = 400) =>
    refuses(admin, { path: policies, body: { ...rule, ...changes }, status }, message)
  await create({ name: 'Rule' }, /name/)
  await create({ dest_registry: null }, /dest_registry must name a registry/)
  await create({ dest_registry: { id: 99 } }, /no registry with the id 99/)
  await create({ dest_registry: { id: 99_999_999_999 } }, /no registry with the id/)
  await create({ src_registry: { id } }, /src_registry/)
  await create({ dest_namespace: 'mirror' }, /dest_namespace must be empty/)
  await create({ speed: 100 }, /speed/)
  await create({ trigger: { type: 'scheduled' } }, /manual or event_based/)
  await create(
    { trigger: { type: 'event_based' }, single_active_replication: true },
    /single_active_replication/,
  )
  await create({ filters: [{ type: 'colour', value: 'red' }] }, /the filter \\"colour\\"/)
  await create({ filters: [{ type: 'tag_regex', value: '(' }] }, /the filter \\"tag_regex\\"/)
  await create({ filters: [{ type: 'newest', value: 0 }] }, /the filter \\"newest\\"/)
  await create({ serve: 'sometimes' }, /serve/)
  assert.equal((await admin.asAdmin(policies, { method: 'POST', body: rule })).status, 201)
  await create({}, /exists already/, 409)
})

test('runs need a rule that is there and enabled, and one at a time if it says so', async (t) => {
  const admin = await startAdmin(t)
  const { asAdmin } = admin
  const registry = await asAdmin(registries, { method: 'POST', body: group })
  const rule = { name: 'rule', dest_registry: { id: registry.id }, single_active_replication: true }
  const { id } = await asAdmin(policies, { method: 'POST', body: { ...rule, enabled: true } })
  const run = (body: object) => asAdmin(executions, { method: 'POST', body })
  for (const policy_id of [99, 0, -1, 99_999_999_999]) {
    assert.equal((await run({ policy_id })).status, 404)
    assert.equal((await run({ policy_id, dry_run: true })).status, 404)
  }
  const first = await run({ policy_id: id })
  assert.equal(first.status, 201)
  const second = await run({ policy_id: id })
  const shown = (await asAdmin(`${executions}/${second.id}`)).body as Shown
  assert.deepEqual(
    [shown['status'], shown['status_text']],
    ['Failed', 'Execution skipped: active replication still in progress.'],
  )
  assert.equal((await asAdmin(`${policies}/${id}`, { method: 'DELETE' })).status, 412)
  assert.equal((await asAdmin(`${executions}/${first.id}`, { method: 'PUT' })).status, 200)
  const stopped = (await asAdmin(`${executions}/${first.id}`)).body as Shown
  assert.equal(stopped['status'], 'Stopped')
  for (const path of ['999', 'x', '0', '99999999999999999']) {
    assert.equal((await asAdmin(`${executions}/${path}`)).status, 404, path)
    assert.equal((await asAdmin(`${executions}/${path}/tasks`)).status, 404, path)
    assert.equal((await asAdmin(`${executions}/${path}/tasks/1/log`)).status, 404, path)
  }
  assert.equal((await asAdmin(`${executions}/${first.id}/tasks/1/log`)).status, 404)
  for (const query of [`policy_id=${id}&trigger=manual`, 'q=trigger=manual', 'sort=-start_time']) {
    assert.equal(((await asAdmin(`${executions}?${query}`)).body as Shown[]).length, 2, query)
  }
  assert.equal(((await asAdmin(`${executions}?status=Stopped`)).body as Shown[]).length, 1)
  assert.equal(((await asAdmin(`${executions}?q=status=InProgress`)).body as Shown[]).length, 0)
  const audit = (await asAdmin('/api/v2.0/auditlog-exts?page_size=100')).body as Shown[]
  assert.deepEqual(
    audit
      .filter((entry) => entry['resource_type'] === 'replication')
      .map((entry) => [entry['operation'], entry['resource']]),
    [
      ['stop', 'rule'],
      ['create', 'rule'],
      ['create', 'rule'],
    ],
  )
})
