import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { RepositoryFacts } from '../../../primary/accounts/caller.ts'
import { createManifests } from '../../../primary/store/manifests.ts'
import { digestOf } from '../../../shared/oci/digest.ts'
import { parseManifest } from '../../../shared/oci/manifest.ts'
import { parseRepositoryName, type Tag } from '../../../shared/oci/reference.ts'
import type { EventBody } from '../../../shared/replication/events.ts'
import { startAdmin, type Admin } from '../../kit/admin.ts'
import { createImage, createIndex, type Content, type Image } from '../../kit/images.ts'

const projects = '/api/v2.0/projects'
const artifacts = `${projects}/lib/repositories/team%252Fapp/artifacts`
const never = '0001-01-01T00:00:00.000Z'

interface Shown {
  readonly id: number
  readonly digest: string
  readonly type: string
  readonly media_type: string
  readonly size: number
  readonly tags: readonly { readonly name: string }[] | null
  readonly labels: readonly { readonly name: string }[] | null
}

async function createProjects({ asAdmin }: Admin): Promise<void> {
  for (const project_name of ['lib', 'other']) {
    const body = { project_name }
    assert.equal((await asAdmin(projects, { method: 'POST', body })).status, 201)
  }
}

/** Pushes into `lib/team/app`, without the blobs. */
async function put(
  { records }: Admin,
  manifest: Content,
  { tags = [] }: { readonly tags?: readonly string[] } = {},
): Promise<RepositoryFacts> {
  return createManifests(records).put(
    {
      place: { projectId: 1, name: parseRepositoryName('lib/team/app') },
      digest: manifest.digest,
      content: manifest.bytes,
      manifest: parseManifest(manifest.bytes, manifest.mediaType),
      tags: tags as readonly Tag[],
      conditions: { ifMatch: [], ifNoneMatch: [] },
      sparse: true,
      actor: { username: 'admin', address: '' },
    },
    new Date(),
  )
}

async function createLabel({ asAdmin }: Admin, body: object): Promise<number> {
  const answer = await asAdmin('/api/v2.0/labels', { method: 'POST', body })
  assert.equal(answer.status, 201)
  return answer.id
}

/** The bytes of an image's manifest and of all that it names. */
const bytesIn = ({ manifest, blobs }: Image) =>
  [manifest, ...blobs].reduce((sum, { bytes }) => sum + bytes.length, 0)

test('an artifact is shown by its digest and by its tags, with what is known of it', async (t) => {
  const admin = await startAdmin(t)
  await createProjects(admin)
  const image = createImage({ seed: 'shown' })
  const { digest } = image.manifest
  await put(admin, image.manifest, { tags: ['v1', 'latest'] })
  const answer = await admin.asAdmin(`${artifacts}/${digest}`)
  assert.equal(answer.status, 200)
  const { push_time: pushTime, tags, ...rest } = answer.body as Record<string, unknown>
  assert.match(String(pushTime), /^\d{4}-.*Z$/)
  assert.deepEqual(rest, {
    id: 1,
    type: 'IMAGE',
    media_type: 'application/vnd.oci.image.config.v1+json',
    manifest_media_type: 'application/vnd.oci.image.manifest.v1+json',
    artifact_type: 'application/vnd.oci.image.config.v1+json',
    project_id: 1,
    repository_id: 1,
    repository_name: 'lib/team/app',
    digest,
    size: bytesIn(image),
    pull_time: never,
    labels: null,
  })
  const [first, ...others] = tags as Record<string, unknown>[]
  assert.deepEqual(first, {
    id: first?.['id'],
    repository_id: 1,
    artifact_id: 1,
    name: 'latest',
    push_time: pushTime,
    pull_time: never,
  })
  assert.deepEqual(
    others.map((tag) => tag['name']),
    ['v1'],
  )
  for (const path of [
    `${artifacts}/v1`,
    `${projects}/lib/repositories/team%2Fapp/artifacts/${digest.replace(':', '%3A')}`,
  ]) {
    const again = await admin.asAdmin(path)
    assert.equal((again.body as Shown).digest, digest, path)
  }
  const bare = (await admin.asAdmin(`${artifacts}/v1?with_tag=false`)).body as Shown
  assert.equal(bare.tags, null)
  for (const path of [
    `${artifacts}/v2`,
    `${artifacts}/${digestOf(Buffer.from('x'))}`,
    `${artifacts}/sha256:1`,
    `${artifacts}/-`,
    `${projects}/lib/repositories/app/artifacts/v1`,
    `${projects}/other/repositories/team%252Fapp/artifacts/v1`,
  ]) {
    assert.equal((await admin.asAdmin(path)).status, 404, path)
  }
})

test('artifacts are listed newest first as Harbor counts them, filtered and in pages', async (t) => {
  const admin = await startAdmin(t)
  await createProjects(admin)
  const [one, two] = [createImage({ seed: 'one' }), createImage({ seed: 'two' })]
  const index = createIndex({ children: [one, two] })
  const notes = createImage({ seed: 'notes', artifactType: 'application/vnd.acme.notes' })
  const signature = createImage({ seed: 'signature', subject: index.manifest })
  await put(admin, one.manifest)
  await put(admin, two.manifest, { tags: ['amd64'] })
  await put(admin, index.manifest, { tags: ['v1', 'v1.0'] })
  await put(admin, signature.manifest)
  await put(admin, notes.manifest)
  const list = async (query = '') => {
    const answer = await admin.asAdmin(`${artifacts}?${query}`)
    assert.equal(answer.status, 200, `${query} ${JSON.stringify(answer.body)}`)
    const rows = answer.body as Shown[]
    if (!query.includes('page')) {
      assert.equal(answer.headers.get('x-total-count'), String(rows.length), query)
    }
    return rows
  }
  const names = new Map<string, string>([
    [one.manifest.digest, 'one'],
    [two.manifest.digest, 'two'],
    [index.manifest.digest, 'index'],
    [notes.manifest.digest, 'notes'],
  ])
  const listed = async (query?: string) =>
    (await list(query)).map(({ digest }) => names.get(digest) ?? digest).join(' ')
  // Neither the child without a tag nor the signature.
  assert.equal(await listed(), 'notes index two')
  const shown = (await admin.asAdmin(`${projects}/lib/repositories/team%252Fapp`)).body
  assert.equal((shown as { artifact_count: number }).artifact_count, 3)
  const sizes = Object.fromEntries((await list()).map(({ digest, size }) => [digest, size]))
  assert.equal(
    sizes[index.manifest.digest],
    index.manifest.bytes.length + bytesIn(one) + bytesIn(two),
  )
  assert.equal(await listed('q=tags=*'), 'index two')
  assert.equal(await listed('q=tags=nil'), 'notes')
  assert.equal(await listed('q=tags=v1'), 'index')
  assert.equal(await listed('q=tags=~V1'), 'index')
  assert.equal(await listed('q=tags={v1 amd64}'), 'index two')
  assert.equal(await listed('q=tags=(v1 v1.0)'), 'index')
  assert.equal(await listed('q=tags=(v1 amd64)'), '')
  assert.equal(await listed(`q=digest=${two.manifest.digest}`), 'two')
  assert.equal(await listed('q=manifest_media_type=~index'), 'index')
  assert.equal(await listed('q=type=IMAGE'), 'index two')
  assert.equal(await listed('q=media_type=~index'), 'index')
  assert.equal(await listed('q=push_time=[2000-01-01~]'), 'notes index two')
  assert.equal(await listed('sort=push_time'), 'two index notes')
  assert.equal(await listed('page_size=2&page=2'), 'two')
  const page = await admin.asAdmin(`${artifacts}?page_size=2`)
  assert.equal(page.headers.get('x-total-count'), '3')
  assert.match(page.headers.get('link') ?? '', /team%252Fapp\/artifacts\?.*page=2.*rel="next"/)
  for (const query of [
    'q=tags=[a~b]',
    'q=labels=x',
    'q=labels=[1~2]',
    'q=content=1',
    'sort=tags',
  ]) {
    assert.equal((await admin.asAdmin(`${artifacts}?${query}`)).status, 400, query)
  }
  assert.equal((await admin.asAdmin(`${artifacts}?page_size=101`)).status, 422)
})

test('the type of an artifact is what its media type says', async (t) => {
  const admin = await startAdmin(t)
  await createProjects(admin)
  const types: readonly [string, string][] = [
    ['application/vnd.docker.container.image.v1+json', 'IMAGE'],
    ['application/vnd.cncf.helm.config.v1+json', 'CHART'],
    ['application/vnd.wasm.config.v1+json', 'WASM'],
    ['application/vnd.acme.rocket.config.v1+json', 'ROCKET'],
    ['application/vnd.acme.a.b.config.v1+json', 'A.B'],
    ['text/plain', 'UNKNOWN'],
    [`application/${'x'.repeat(1_000_000)}`, 'UNKNOWN'],
  ]
  for (const [mediaType, type] of types) {
    const config = { mediaType, digest: digestOf(Buffer.from(mediaType)), size: 7 }
    const document = { schemaVersion: 2, config, layers: [] }
    const bytes = Buffer.from(JSON.stringify(document))
    const manifest = {
      bytes,
      digest: digestOf(bytes),
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
    }
    await put(admin, manifest)
    const shown = (await admin.asAdmin(`${artifacts}/${manifest.digest}`)).body as Shown
    assert.equal(shown.type, type)
    assert.equal(shown.media_type, mediaType.slice(0, 255))
    assert.equal(shown.size, bytes.length + 7)
    const found = (await admin.asAdmin(`${artifacts}?q=type=${type}`)).body as Shown[]
    assert.equal(found[0]?.digest, manifest.digest)
    assert.ok(found.every((each) => each.type === type))
  }
})

test('sizes that descriptors only claim add up to no fault', async (t) => {
  const admin = await startAdmin(t)
  await createProjects(admin)
  const image = createImage({ seed: 'claims', layers: 0 })
  const layer = { mediaType: 'x/nondistributable', size: Number.MAX_SAFE_INTEGER }
  const document = {
    ...(JSON.parse(image.manifest.bytes.toString()) as object),
    layers: Array.from({ length: 2000 }, () => ({ ...layer, digest: image.manifest.digest })),
  }
  const bytes = Buffer.from(JSON.stringify(document))
  await put(admin, { ...image.manifest, bytes, digest: digestOf(bytes) })
  const [shown] = (await admin.asAdmin(artifacts)).body as Shown[]
  assert.equal(shown?.size, Number.MAX_SAFE_INTEGER)
})

test('labels of the project and global ones are put on an artifact and taken off', async (t) => {
  const admin = await startAdmin(t)
  await createProjects(admin)
  const { asAdmin, records } = admin
  const image = createImage({ seed: 'labelled' })
  const other = createImage({ seed: 'other' })
  await put(admin, image.manifest, { tags: ['v1'] })
  await put(admin, other.manifest)
  const own = await createLabel(admin, { name: 'own', scope: 'p', project_id: 1 })
  const foreign = await createLabel(admin, { name: 'foreign', scope: 'p', project_id: 2 })
  const global = await createLabel(admin, { name: 'global', scope: 'g' })
  const attach = async (id: unknown, place = `${artifacts}/v1`) =>
    (await asAdmin(`${place}/labels`, { method: 'POST', body: { id } })).status
  const detach = async (id: unknown, place = `${artifacts}/v1`) =>
    (await asAdmin(`${place}/labels/${String(id)}`, { method: 'DELETE' })).status
  const before = (await records.selectFrom('outbox').select('id').execute()).length

  assert.equal(await attach(global), 200)
  assert.equal(await attach(own, `${artifacts}/${image.manifest.digest}`), 200)
  assert.equal(await attach(own), 409)
  for (const id of [foreign, 999, 0, -1, 99_999_999_999]) assert.equal(await attach(id), 404)
  assert.equal(await attach('1'), 400)
  assert.equal(await attach(own, `${artifacts}/v9`), 404)
  assert.equal(await attach(own, `${projects}/lib/repositories/x/artifacts/v1`), 404)

  const labelsOf = async (query: string) => {
    const shown = (await asAdmin(`${artifacts}/v1?${query}`)).body as Shown
    return shown.labels?.map(({ name }) => name)
  }
  assert.deepEqual(await labelsOf('with_label=true'), ['own', 'global'])
  assert.equal(await labelsOf(''), undefined)
  const listed = async (query: string) =>
    ((await asAdmin(`${artifacts}?with_label=true&${query}`)).body as Shown[]).map(
      ({ labels }) => labels?.map(({ name }) => name).join(' ') ?? '',
    )
  assert.deepEqual(await listed(''), ['', 'own global'])
  assert.deepEqual(await listed(`q=labels=(${own} ${global})`), ['own global'])
  assert.deepEqual(await listed(`q=labels=(${own} ${foreign})`), [])
  assert.deepEqual(await listed(`q=labels={${own} ${foreign}}`), ['own global'])
  assert.deepEqual(await listed(`q=labels=${global}`), ['own global'])

  assert.equal(await detach(global), 200)
  for (const id of [global, foreign, 999, 'x']) assert.equal(await detach(id), 404)
  assert.deepEqual(await labelsOf('with_label=true'), ['own'])

  const rows = await records.selectFrom('outbox').selectAll().orderBy('id').execute()
  const place = { projectId: 1, repositoryId: 1, digest: image.manifest.digest }
  assert.deepEqual(
    rows.slice(before).map(({ stream, body }) => [stream, (JSON.parse(body) as EventBody).fact]),
    [[global], [own, global], [own]].map((labels) => [
      'project:1',
      { type: 'manifest-labels', ...place, labels },
    ]),
  )
  const audit = (await asAdmin(`${projects}/lib/auditlog-exts?q=resource_type=artifact-label`)).body
  assert.deepEqual(
    (audit as Record<string, unknown>[]).map((entry) => [
      entry['operation'],
      entry['operation_description'],
      entry['resource'],
    ]),
    [
      ['delete', 'global'],
      ['create', 'own'],
      ['create', 'global'],
    ].map((deed) => [...deed, `lib/team/app@${image.manifest.digest}`]),
  )
})
