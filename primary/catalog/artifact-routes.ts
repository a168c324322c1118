import { ApiError } from '../../shared/api/errors.ts'
import { listParameters, timestamp } from '../../shared/api/fields.ts'
import { listAnswer, parseListing } from '../../shared/api/listing.ts'
import { parseReference } from '../../shared/oci/reference.ts'
import { Type } from '../../shared/schema/type.ts'
import type { AdminApi } from '../accounts/admin-api.ts'
import { parseId, type Admitted } from '../accounts/guard.ts'
import { createFindRepository } from '../projects/find-repository.ts'
import {
  artifactFields,
  artifactFilterFields,
  type Artifact,
  type ArtifactParts,
  type Artifacts,
  type ArtifactTag,
} from '../store/artifacts.ts'
import type { Catalog, CatalogRepository } from '../store/catalog.ts'
import type { Labels } from '../store/labels.ts'
import { labelModel, showLabel } from './label-model.ts'

export interface ArtifactRouteDeps {
  readonly catalog: Pick<Catalog, 'get'>
  readonly artifacts: Artifacts
  readonly labels: Pick<Labels, 'attach' | 'detach'>
  /** Epoch ms. */
  readonly now: () => number
}

const tag = 'artifact'
const place = '/projects/:project_name/repositories/:repository_name/artifacts'
const ofRepository = { project_name: Type.String(), repository_name: Type.String() }
const ofArtifact = { ...ofRepository, reference: Type.String() }

const partParameters = {
  with_tag: Type.Optional(Type.Boolean({ description: 'true if left out' })),
  with_label: Type.Optional(Type.Boolean()),
}

const tagModel = Type.Object({
  id: Type.Integer(),
  repository_id: Type.Integer(),
  artifact_id: Type.Integer(),
  name: Type.String(),
  push_time: timestamp,
  pull_time: timestamp,
})

/** null where there are none, or none are asked for: what Harbor's clients know. */
const artifactModel = Type.Object({
  id: Type.Integer(),
  type: Type.String({ description: '`IMAGE`, `CHART` …' }),
  media_type: Type.String(),
  manifest_media_type: Type.String(),
  artifact_type: Type.String(),
  project_id: Type.Integer(),
  repository_id: Type.Integer(),
  repository_name: Type.String(),
  digest: Type.String(),
  size: Type.Integer({ description: 'Bytes, with all that the manifest names.' }),
  push_time: timestamp,
  pull_time: timestamp,
  tags: Type.Union([Type.Array(tagModel), Type.Null()]),
  labels: Type.Union([Type.Array(labelModel), Type.Null()]),
})

/** Artifacts of a repository, and the labels on them. [harbor api/v2.0/swagger.yaml, artifact] */
export function artifactRoutes(api: AdminApi, deps: ArtifactRouteDeps): void {
  const { catalog, artifacts, labels, now } = deps
  const findRepository = createFindRepository(catalog)
  const deedOf = ({ actor }: Admitted) => ({ actor, now: new Date(now()) })

  /** The artifact of the path, and its repository. @throws ApiError NOT_FOUND */
  async function find(
    params: { readonly repository_name: string; readonly reference: string },
    admitted: Admitted,
    parts: ArtifactParts = { withTags: false, withLabels: false },
  ): Promise<{ readonly artifact: Artifact; readonly repository: CatalogRepository }> {
    const repository = await findRepository(params, admitted)
    const reference = parseReference(params.reference)
    const artifact = reference && (await artifacts.get(repository.id, reference, parts))
    if (artifact !== undefined) return { artifact, repository }
    throw new ApiError('NOT_FOUND', 'the repository has no such artifact')
  }

  api.route({
    method: 'GET',
    path: place,
    tag,
    summary: "List a repository's artifacts (q=tags=*, q=labels=(1 2), q=type=CHART)",
    permission: { of: 'project', permission: 'artifact:list' },
    params: Type.Object(ofRepository),
    query: Type.Object({ ...listParameters, ...partParameters }),
    responses: { 200: Type.Array(artifactModel) },
    handle: async ({ params, query, url, admitted }) => {
      const listing = parseListing(query, artifactFields, artifactFilterFields)
      const repository = await findRepository(params, admitted)
      const asked = { ...listing, ...readParts(query), repositoryId: repository.id }
      const { rows, total } = await artifacts.list(asked)
      const shown = rows.map((artifact) => showArtifact(artifact, repository))
      return listAnswer(shown, { url, page: listing.page, total })
    },
  })

  api.route({
    method: 'GET',
    path: `${place}/:reference`,
    tag,
    summary: 'Get an artifact by its digest or a tag on it',
    permission: { of: 'project', permission: 'artifact:read' },
    params: Type.Object(ofArtifact),
    query: Type.Object(partParameters),
    responses: { 200: artifactModel },
    handle: async ({ params, query, admitted }) => {
      const { artifact, repository } = await find(params, admitted, readParts(query))
      return { status: 200, body: showArtifact(artifact, repository) }
    },
  })

  api.route({
    method: 'POST',
    path: `${place}/:reference/labels`,
    tag,
    summary: 'Put a label on an artifact: one of its project, or a global one',
    permission: { of: 'project', permission: 'artifact-label:create' },
    params: Type.Object(ofArtifact),
    body: Type.Object({ id: Type.Integer() }),
    responses: { 200: undefined },
    handle: async ({ params, body, admitted }) => {
      const bearer = await find(params, admitted)
      await labels.attach(labelIdOf(String(body.id)), bearer, deedOf(admitted))
      return { status: 200 }
    },
  })

  api.route({
    method: 'DELETE',
    path: `${place}/:reference/labels/:label_id`,
    tag,
    summary: 'Take a label off an artifact',
    permission: { of: 'project', permission: 'artifact-label:delete' },
    params: Type.Object({ ...ofArtifact, label_id: Type.String() }),
    responses: { 200: undefined },
    handle: async ({ params, admitted }) => {
      const bearer = await find(params, admitted)
      await labels.detach(labelIdOf(params.label_id), bearer, deedOf(admitted))
      return { status: 200 }
    },
  })
}

/** @throws ApiError NOT_FOUND for what no label can have */
function labelIdOf(text: string): number {
  const id = parseId(text)
  if (id === undefined) throw new ApiError('NOT_FOUND', 'there is no such label')
  return id
}

function readParts(query: {
  readonly with_tag?: boolean
  readonly with_label?: boolean
}): ArtifactParts {
  return { withTags: query.with_tag ?? true, withLabels: query.with_label ?? false }
}

function showArtifact(artifact: Artifact, repository: CatalogRepository) {
  const { id, tags, labels } = artifact
  return {
    id,
    type: artifact.type,
    media_type: artifact.mediaType,
    manifest_media_type: artifact.manifestMediaType,
    artifact_type: artifact.artifactType ?? artifact.mediaType,
    project_id: repository.projectId,
    repository_id: repository.id,
    repository_name: repository.name,
    digest: artifact.digest,
    size: artifact.size,
    push_time: artifact.pushedAt.toISOString(),
    pull_time: showPullTime(artifact.pulledAt),
    tags: tags.length === 0 ? null : tags.map((one) => showTag(one, { id, repository })),
    labels: labels.length === 0 ? null : labels.map(showLabel),
  }
}

function showTag(
  one: ArtifactTag,
  { id, repository }: { readonly id: number; readonly repository: CatalogRepository },
) {
  return {
    id: one.id,
    repository_id: repository.id,
    artifact_id: id,
    name: one.name,
    push_time: one.pushedAt.toISOString(),
    pull_time: showPullTime(one.pulledAt),
  }
}

/** Go's zero time stands for never. */
function showPullTime(time: Date | undefined): string {
  return time?.toISOString() ?? '0001-01-01T00:00:00.000Z'
}
