import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { digestOf } from '../../../shared/oci/digest.ts'
import { mediaTypes } from '../../../shared/oci/media-types.ts'
import { makeCertificate } from '../../kit/certificates.ts'
import { startTestEdge } from '../../kit/edge.ts'
import { bytesOf } from '../../kit/images.ts'
import { chooseSeed, createRandom, type Random } from '../../kit/random.ts'
import {
  createRegistryClient,
  type Answer,
  type RegistryClient,
} from '../../kit/registry-client.ts'
import { tempFolder } from '../../kit/temp.ts'
import { startUpstream, type Upstream } from '../../kit/upstream.ts'

// Three tenants, three upstreams that hold the same content, and rights that come and go: whatever is asked in
// whatever order, nobody sees what the upstream in question would not show to him, and nothing else is ever dialled.

const seed = chooseSeed()
const requests = Number(process.env['OUTPORT_TENANT_REQUESTS'] ?? 700)

const tenants = ['alice', 'bob', 'carol'] as const
type Tenant = (typeof tenants)[number]
/** Two that are passed through, each with its own listener, and one that is open with the edge's own credential. */
const upstreamIds = ['one', 'two', 'shared'] as const
type UpstreamId = (typeof upstreamIds)[number]
const repositories = ['team/app', 'team/secret', 'other/tool'] as const
/** How long a right that was taken away may still count. */
const decisionTtlMs = 150

/** Who may read what; a right that was taken away leaves the time when it was. */
interface Rights {
  has(tenant: string | undefined, upstream: UpstreamId, repository: string): boolean
  hadUntil(tenant: string | undefined, upstream: UpstreamId, repository: string): number
  set(tenant: Tenant, upstream: UpstreamId, repository: string, has: boolean): void
}

function createRights(): Rights {
  const held = new Set<string>()
  const lost = new Map<string, number>()
  const keyOf = (...parts: readonly (string | undefined)[]) => parts.join('!')
  return {
    has: (...who) => held.has(keyOf(...who)),
    hadUntil: (...who) => (held.has(keyOf(...who)) ? Infinity : (lost.get(keyOf(...who)) ?? 0)),
    set(tenant, upstream, repository, has) {
      const key = keyOf(tenant, upstream, repository)
      if (has) held.add(key)
      else if (held.delete(key)) lost.set(key, performance.now())
    },
  }
}

interface Thing {
  readonly kind: 'blobs' | 'manifests' | 'referrers' | 'tags'
  readonly reference: string
  readonly bytes: Buffer | undefined
}

/** The same for all upstreams: some in every repository, some in one. */
function putContent(upstream: Upstream): Map<string, Thing[]> {
  const things = new Map<string, Thing[]>()
  for (const repository of repositories) {
    const list: Thing[] = [{ kind: 'tags', reference: 'list', bytes: undefined }]
    for (const name of ['everywhere', repository]) {
      const blob = bytesOf(name, 40_000)
      const digest = upstream.addBlob(repository, blob)
      const document = {
        schemaVersion: 2,
        mediaType: mediaTypes.ociManifest,
        config: { mediaType: 'application/vnd.oci.image.config.v1+json', digest, size: 40_000 },
        layers: [],
        annotations: { name },
      }
      const bytes = Buffer.from(JSON.stringify(document))
      const manifest = upstream.addManifest(repository, bytes, {
        mediaType: mediaTypes.ociManifest,
        tag: name === 'everywhere' ? 'v1' : 'own',
      })
      list.push({ kind: 'blobs', reference: digest, bytes: blob })
      list.push({ kind: 'manifests', reference: manifest, bytes })
      list.push({ kind: 'manifests', reference: name === 'everywhere' ? 'v1' : 'own', bytes })
      list.push({ kind: 'referrers', reference: manifest, bytes: undefined })
    }
    things.set(repository, list)
  }
  return things
}

async function startWorld(t: TestContext) {
  const rights = createRights()
  const ca = makeCertificate({ isCa: true, commonName: 'ca' })
  const certificate = makeCertificate({ issuer: ca })
  const folder = await tempFolder(t)
  const files = { cert: join(folder, 'cert.pem'), key: join(folder, 'key.pem') }
  await writeFile(files.cert, certificate.cert)
  await writeFile(files.key, certificate.key)
  const users = Object.fromEntries([...tenants, 'edge'].map((name) => [name, `${name} at any`]))
  const upstreams = new Map<UpstreamId, Upstream>()
  let things = new Map<string, Thing[]>()
  for (const id of upstreamIds) {
    const upstream = await startUpstream({
      auth: {
        scheme: id === 'two' ? 'basic' : 'bearer',
        users,
        mayRead: (user, repository) => user === 'edge' || rights.has(user, id, repository),
      },
    })
    t.after(() => upstream.close())
    upstreams.set(id, upstream)
    things = putContent(upstream)
  }
  const outsider = await startUpstream()
  t.after(() => outsider.close())
  const edge = await startTestEdge(t, {
    listeners: (['one', 'two'] as const).map((id) => ({
      name: id,
      port: 0,
      default: id,
      passthrough: id,
      tls: files,
    })),
    edge: {
      cache: { decision_ttl: `${decisionTtlMs}ms` },
      upstreams: upstreamIds.map((id) => ({
        id,
        url: upstreams.get(id)?.url.origin,
        tag_ttl: '1h',
        negative_ttl: '0s',
        ...(id === 'shared'
          ? { credentials: { username: 'edge', password: 'edge at any' } }
          : { access: 'passthrough' }),
      })),
    },
  })
  const clients = new Map<string, RegistryClient>()
  for (const id of ['one', 'two'] as const) {
    for (const tenant of [...tenants, undefined]) {
      const client = createRegistryClient({
        baseUrl: edge.listener(id),
        ca: ca.cert,
        credentials: tenant && { username: tenant, password: `${tenant} at any` },
      })
      t.after(() => client.close())
      clients.set(`${id} ${tenant ?? ''}`, client)
    }
  }
  const open = edge.mirrorClient()
  const clientOf = (id: UpstreamId, tenant: Tenant | undefined): RegistryClient =>
    id === 'shared' ? open : (clients.get(`${id} ${tenant ?? ''}`) ?? open)
  return { rights, upstreams, outsider, things, edge, clientOf }
}

type World = Awaited<ReturnType<typeof startWorld>>

interface Question {
  readonly tenant: Tenant | undefined
  readonly upstream: UpstreamId
  readonly repository: string
  readonly thing: Thing
  readonly method: 'GET' | 'HEAD'
  readonly range: readonly [number, number] | undefined
}

function choose(random: Random, { things }: World): Question {
  const repository = random.pick(repositories)
  // Also what is in another repository only.
  const thing = random.pick(things.get(random.pick(repositories)) ?? [])
  const start = random.between(0, 30_000)
  return {
    tenant: random.next() < 0.25 ? undefined : random.pick(tenants),
    upstream: random.pick(upstreamIds),
    repository,
    thing,
    method: random.pick(['GET', 'GET', 'HEAD']),
    range: random.next() < 0.33 ? [start, start + random.between(0, 9_000)] : undefined,
  }
}

async function ask({ clientOf }: World, question: Question): Promise<Answer> {
  const { tenant, upstream, repository, thing, method, range } = question
  const prefix = upstream === 'shared' ? 'shared/' : ''
  const path = `/v2/${prefix}${repository}/${thing.kind}/${thing.reference}`
  const headers = range && { Range: `bytes=${range[0]}-${range[1]}` }
  return clientOf(upstream, tenant).request(method, path, headers && { headers })
}

/** Whether the repository has it: referrers and tags are of any repository that is there. */
function isIn({ things }: World, { repository, thing }: Question): boolean {
  if (thing.kind === 'referrers' || thing.kind === 'tags') return true
  return (things.get(repository) ?? []).some(
    ({ kind, reference }) => kind === thing.kind && reference === thing.reference,
  )
}

function checkAnswer(
  world: World,
  question: Question,
  { answer, askedAt }: { readonly answer: Answer; readonly askedAt: number },
): void {
  const { tenant, upstream, repository, thing, method, range } = question
  const said = JSON.stringify({ ...question, thing: { ...thing, bytes: undefined } })
  const isOpen = upstream === 'shared'
  const until = isOpen ? Infinity : world.rights.hadUntil(tenant, upstream, repository)
  // A range that is not satisfiable says that the thing is there.
  const isShown = [200, 206, 416].includes(answer.status)
  if (!isShown) {
    // A right that was there throughout, and the thing: it has to be shown.
    assert.ok(until !== Infinity || !isIn(world, question), `${answer.status} to ${said}`)
    const isChallenge = answer.status === 401 && tenant === undefined && !isOpen
    assert.ok(isChallenge || answer.status === 404, `${answer.status} to ${said}`)
    return
  }
  // It may have been decided just before it was taken away, and counts for its time.
  assert.ok(until + decisionTtlMs + graceMs >= askedAt, `shown without a right: ${said}`)
  assert.ok(isIn(world, question), `shown, and not there: ${said}`)
  if (method === 'HEAD' || thing.bytes === undefined || answer.status === 416) return
  // The same tag names another manifest in each repository.
  const whole =
    (world.things.get(repository) ?? []).find(({ reference }) => reference === thing.reference)
      ?.bytes ?? thing.bytes
  const expected =
    answer.status === 206 && range !== undefined ? whole.subarray(range[0], range[1] + 1) : whole
  assert.equal(digestOf(answer.body), digestOf(expected), said)
}

/** What timers and a busy machine add to the life of a decision. */
const graceMs = 100

test(`${requests} requests of three tenants at three upstreams, OUTPORT_SEED=${seed}`, async (t) => {
  const random = createRandom(seed)
  const world = await startWorld(t)
  const { rights, outsider, edge } = world
  let shown = 0
  for (let count = 0; count < requests; count++) {
    if (random.next() < 0.1) {
      const who = [random.pick(tenants), random.pick(['one', 'two'] as const)] as const
      rights.set(...who, random.pick(repositories), random.next() < 0.6)
    }
    const question = choose(random, world)
    const askedAt = performance.now()
    const answer = await ask(world, question)
    if (answer.status < 300) shown++
    checkAnswer(world, question, { answer, askedAt })
    if (random.next() < 0.02) {
      const path = `/v2/team/app/manifests/v1?ns=${outsider.host}`
      for (const client of [edge.client(), edge.mirrorClient(), world.clientOf('one', 'alice')])
        assert.equal((await client.request('GET', path)).status, 404)
    }
    if (random.next() < 0.02) {
      const id = random.pick(['one', 'two'] as const)
      const before = world.upstreams.get(id)?.requests.length
      const credentials = { username: 'alice', password: 'alice at any' }
      for (const client of [edge.client(credentials), edge.mirrorClient()]) {
        for (const path of [
          `/v2/${id}/team/app/manifests/v1`,
          `/v2/team/app/manifests/v1?ns=${id}`,
        ]) {
          const answer = await client.request('GET', path)
          assert.ok(answer.status >= 400, `${answer.status} to ${path}`)
        }
      }
      assert.equal(world.upstreams.get(id)?.requests.length, before, 'nothing of it elsewhere')
    }
  }
  assert.equal(outsider.requests.length, 0)
  assert.ok(shown > requests / 5, `only ${shown} were shown at all`)
})
