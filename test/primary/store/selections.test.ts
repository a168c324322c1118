import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import { createPlanner } from '../../../primary/replication/plan.ts'
import type { Records } from '../../../primary/store/database.ts'
import { createEvents } from '../../../primary/store/events.ts'
import { createExecutions } from '../../../primary/store/executions.ts'
import { createManifests } from '../../../primary/store/manifests.ts'
import { createPolicies, type PolicyText } from '../../../primary/store/policies.ts'
import { createProjects } from '../../../primary/store/projects.ts'
import { createRegistries } from '../../../primary/store/registries.ts'
import type { PlannerOf } from '../../../primary/store/rule-planner.ts'
import { createSelections } from '../../../primary/store/selections.ts'
import { parseManifest } from '../../../shared/oci/manifest.ts'
import { parseRepositoryName, type Tag } from '../../../shared/oci/reference.ts'
import type { EventBody } from '../../../shared/replication/events.ts'
import { createImage } from '../../kit/images.ts'
import { createLogKey } from '../../kit/log-keys.ts'
import { createTestDatabase } from '../../kit/postgres.ts'

const actor = { username: 'admin', address: '' }
const deed = () => ({ actor, now: new Date() })
const key = createLogKey()
const plannerOf: PlannerOf = (policy) => createPlanner(policy)

async function createWorld(t: TestContext) {
  const database = await createTestDatabase(t, { poolSize: 8 })
  const { records } = database
  await records
    .insertInto('users')
    .values({
      username: 'a',
      email: 'a',
      realname: '',
      comment: '',
      password_hash: null,
      sysadmin: true,
    })
    .execute()
  const projects = createProjects(records)
  const projectId = await projects.create(
    { name: 'lib', public: false, metadata: {}, ownerId: 1 },
    actor,
    new Date(),
  )
  const registryId = await createRegistries(records).create(
    { name: 'all', type: 'outport-edges', url: '', description: '', insecure: false, selector: {} },
    deed(),
  )
  const policies = createPolicies(records)
  const manifests = createManifests(records)
  const events = createEvents(records)
  return {
    records,
    policies,
    selections: createSelections(records),
    executions: createExecutions(records),
    createRule: (name: string, rest: Partial<PolicyText> = {}) =>
      policies.create({ ...ruleText(name, registryId), ...rest }, deed()),
    /** Pushes an image of a repository, without its blobs. */
    async push(repository: string, seed: string, tags: readonly string[] = [seed]) {
      const { manifest } = createImage({ seed: `${repository} ${seed}` })
      await manifests.put(
        {
          place: { projectId, name: parseRepositoryName(`lib/${repository}`) },
          digest: manifest.digest,
          content: manifest.bytes,
          manifest: parseManifest(manifest.bytes, manifest.mediaType),
          tags: tags as readonly Tag[],
          conditions: { ifMatch: [], ifNoneMatch: [] },
          sparse: true,
          actor,
        },
        new Date(),
      )
      return manifest.digest
    },
    /** Numbers all that waits. */
    async number() {
      while ((await events.number(key.sign)).full);
    },
  }
}

function ruleText(name: string, registryId: number): PolicyText {
  return {
    name,
    description: '',
    registryId,
    filters: [{ type: 'tag', value: '?*' }],
    platforms: [],
    trigger: 'event_based',
    deletion: true,
    override: true,
    enabled: true,
    serve: 'latest',
    copyByChunk: false,
    singleActive: false,
    namespaceReplaceCount: -1,
  }
}

/** What edges are told is selected, by the facts in the order of the log or of the outbox. */
async function toldBy(records: Records): Promise<readonly string[]> {
  const numbered = await records.selectFrom('events').select('body').orderBy('seq').execute()
  const waiting = await records.selectFrom('outbox').select('body').orderBy('id').execute()
  const told = new Set<string>()
  for (const { body } of [...numbered, ...waiting]) {
    const { fact } = JSON.parse(body) as EventBody
    if (fact.type !== 'selected' && fact.type !== 'unselected') continue
    const name = `${fact.ruleId} ${fact.repositoryId} ${fact.digest}`
    if (fact.type === 'unselected') assert.ok(told.delete(name), `${name} was not selected`)
    else {
      assert.ok(!told.has(name), `${name} is told twice`)
      told.add(name)
    }
  }
  return [...told].sort()
}

async function selectedBy(records: Records): Promise<readonly string[]> {
  const rows = await records
    .selectFrom('rule_selections')
    .select(['rule_id', 'repository_id', 'digest'])
    .where('stopped', '=', false)
    .execute()
  return rows.map((row) => `${row.rule_id} ${row.repository_id} ${row.digest}`).sort()
}

test('who is killed in a batch has done nothing, and the next one does all of it once', async (t) => {
  const world = await createWorld(t)
  const { records, selections } = world
  await world.createRule('one')
  await world.createRule('two')
  for (const seed of ['v1', 'v2', 'v3']) await world.push('app', seed)
  await world.number()
  // The second rule is where it dies: the first has been written by then.
  const dying: PlannerOf = (policy) => {
    const planner = createPlanner(policy)
    if (policy.name === 'one') return planner
    return {
      ...planner,
      plan() {
        throw new Error('killed')
      },
    }
  }
  await assert.rejects(selections.catchUp(dying, new Date()), /killed/)
  assert.deepEqual(await selectedBy(records), [])
  assert.deepEqual(await toldBy(records), [])
  assert.equal((await world.executions.running()).length, 0)
  await selections.catchUp(plannerOf, new Date())
  assert.equal((await selectedBy(records)).length, 6)
  assert.deepEqual(await toldBy(records), await selectedBy(records))
  assert.equal((await world.executions.running()).length, 2)
  // What it wrote itself is read, and changes nothing.
  await world.number()
  await selections.catchUp(plannerOf, new Date())
  await selections.catchUp(plannerOf, new Date())
  assert.equal((await world.executions.running()).length, 2)
})

test('followers on one database take turns, and neither doubles what the other did', async (t) => {
  const world = await createWorld(t)
  const { records, selections } = world
  const other = createSelections(records)
  await world.createRule('newest', { filters: [{ type: 'newest', value: 2 }] })
  await world.createRule('all')
  let pushing = true
  const follow = async (one: typeof selections) => {
    while (pushing) {
      await one.catchUp(plannerOf, new Date())
      await world.number()
    }
  }
  const following = [follow(selections), follow(other)]
  for (let turn = 0; turn < 20; turn++) await world.push(`app${turn % 3}`, `v${turn}`)
  pushing = false
  await Promise.all(following)
  await world.number()
  while ((await selections.catchUp(plannerOf, new Date())).more);
  const selected = await selectedBy(records)
  assert.deepEqual(await toldBy(records), selected)
  assert.equal(selected.length, 20 + 3 * 2)
  // While one is at it, the other has nothing to do, and does not wait.
  await world.push('app', 'last')
  await world.number()
  await records.transaction().execute(async (trx) => {
    await trx.selectFrom('log_cursors').select('seq').forUpdate().execute()
    assert.equal((await other.catchUp(plannerOf, new Date())).more, false)
  })
  assert.deepEqual(await selectedBy(records), selected)
  await other.catchUp(plannerOf, new Date())
  assert.equal((await selectedBy(records)).length, selected.length + 2)
})

test('a follower whose place was trimmed, or is of another epoch, looks at everything again', async (t) => {
  const world = await createWorld(t)
  const { records, selections } = world
  await world.createRule('all')
  await world.push('app', 'v1')
  await world.number()
  await createEvents(records).trim(new Date(Date.now() + 60_000))
  await selections.catchUp(plannerOf, new Date())
  assert.equal((await selectedBy(records)).length, 1)
  await records.deleteFrom('rule_selections').execute()
  await records.updateTable('event_head').set({ epoch: 2 }).execute()
  await selections.catchUp(plannerOf, new Date())
  assert.equal((await selectedBy(records)).length, 1)
})

test('a rule that cannot be read holds no other up', async (t) => {
  const world = await createWorld(t)
  const broken = await world.createRule('broken')
  await world.createRule('whole')
  await world.push('app', 'v1')
  await world.number()
  const reader: PlannerOf = (policy) => (policy.id === broken ? undefined : createPlanner(policy))
  await world.selections.catchUp(reader, new Date())
  assert.equal((await selectedBy(world.records)).length, 1)
})

test('an execution has its place in the log once all its facts are numbered', async (t) => {
  const world = await createWorld(t)
  const { executions, selections } = world
  await world.createRule('all')
  await world.push('app', 'v1')
  await world.number()
  await selections.catchUp(plannerOf, new Date())
  await executions.place()
  const [waiting] = await executions.running()
  assert.equal(waiting?.place, undefined)
  await world.number()
  await executions.place()
  const [placed] = await executions.running()
  const head = await createEvents(world.records).head()
  assert.deepEqual(placed?.place, head)
  await world.push('app', 'v2')
  await world.number()
  await executions.place()
  assert.deepEqual((await executions.running())[0]?.place, head)
})

test('runs of one rule and its follower at the same time end with what the rule selects', async (t) => {
  const world = await createWorld(t)
  const { records, selections, executions } = world
  const rule = await world.createRule('all')
  for (let turn = 0; turn < 8; turn++) {
    await world.push('app', `v${turn}`)
    const { id } = await executions.start(rule, deed())
    await world.number()
    await Promise.all([
      selections.run(id, plannerOf, new Date()),
      selections.run(id, plannerOf, new Date()),
      selections.catchUp(plannerOf, new Date()),
    ])
  }
  await world.number()
  while ((await selections.catchUp(plannerOf, new Date())).more);
  assert.equal((await selectedBy(records)).length, 8)
  assert.deepEqual(await toldBy(records), await selectedBy(records))
})
