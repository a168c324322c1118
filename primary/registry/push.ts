import type { Readable } from 'node:stream'
import { algorithmOf, digestOf, isDigest, type Digest } from '../../shared/oci/digest.ts'
import { OciError } from '../../shared/oci/errors.ts'
import { parseManifest, type Manifest } from '../../shared/oci/manifest.ts'
import {
  isRepositoryName,
  isTag,
  type Reference,
  type RepositoryName,
  type Tag,
} from '../../shared/oci/reference.ts'
import type { Caller, RepositoryFacts } from '../accounts/caller.ts'
import type { Manifests } from '../store/manifests.ts'
import type { StoredBlobs } from '../store/stored-blobs.ts'
import type { TagConditions } from '../store/tags.ts'
import type { Access } from './access.ts'
import { digestInvalid } from './pull.ts'
import { readBody } from './read-body.ts'

export interface PushDeps {
  readonly access: Access
  readonly manifests: Manifests
  readonly storedBlobs: StoredBlobs
  /** Drops what caches hold of these subjects. */
  readonly invalidate: (subjects: readonly string[]) => void
  readonly manifestMaxBytes: number
  /** Whether a manifest may name blobs and manifests that are not in the repository: mirrors and partial copies do. */
  readonly sparse: boolean
}

export interface MountRequest {
  readonly caller: Caller
  readonly repository: RepositoryName
  readonly digest: string
  /** The repository that has it; null: whichever the caller may pull from. */
  readonly from: string | null
}

export interface ManifestRequest {
  readonly caller: Caller
  readonly repository: RepositoryName
  /** undefined: the text in the path is neither a tag nor a digest. */
  readonly reference: Reference | undefined
  readonly text: string
  /** The `tag` parameters of a push by digest. */
  readonly tags: readonly string[]
  readonly contentType: string | undefined
  readonly conditions: TagConditions
  readonly body: Readable
  /** Where the request came from, for the audit log. */
  readonly address: string
}

export interface PushedManifest {
  readonly digest: Digest
  readonly subject: Digest | undefined
  /** Tags that the `tag` parameters set. */
  readonly tags: readonly Tag[]
}

/** The dev specification asks for 10 at least; each is a row and a header value. */
const maxTags = 100

export type Push = ReturnType<typeof createPush>

/** What makes content a repository's own: mounts and manifests. [distribution-spec, Push] */
export function createPush(deps: PushDeps) {
  const { access, storedBlobs } = deps

  const findSource = async (
    request: MountRequest,
    digest: Digest,
  ): Promise<RepositoryFacts | undefined> => {
    const { caller, repository, from } = request
    if (from === null) {
      const sources = await storedBlobs.sources({ digest, caller })
      return (await access.firstPullable(sources, { caller, target: repository }))?.repository
    }
    if (!isRepositoryName(from)) return undefined
    return access.mountSource({ caller, target: repository, from, digest })
  }

  return {
    /**
     * Gives the repository a blob that another one has, without its bytes. [end-11]
     * @returns undefined when that cannot be done, whatever the reason: the client then uploads
     */
    async mount(request: MountRequest): Promise<Digest | undefined> {
      const { caller, repository, digest, from } = request
      const mountFrom = from !== null && isRepositoryName(from) ? from : undefined
      const grant = await access.allow({ caller, repository, action: 'push', mountFrom })
      if (!isDigest(digest)) return undefined
      const source = await findSource(request, digest)
      if (source === undefined) return undefined
      const to = { projectId: grant.project.id, name: repository }
      const mounted = await storedBlobs.mount({ digest, from: source, to }, new Date())
      return mounted && digest
    },

    /**
     * Checks a manifest and commits it with its tags. [end-7a, end-7b]
     * @throws OciError with the spec's code for each check
     */
    async putManifest(request: ManifestRequest): Promise<PushedManifest> {
      const { caller, repository } = request
      const grant = await access.allow({ caller, repository, action: 'push' })
      const reference = request.reference ?? refuseReference(request.text)
      const tags = reference.kind === 'tag' ? [reference.tag] : parseTags(request.tags)
      const content = await readBody(request.body, deps.manifestMaxBytes)
      const manifest = parseManifest(content, request.contentType)
      refuseNul(manifest)
      const digest = checkDigest(content, reference)
      const stored = await deps.manifests.put(
        {
          place: { projectId: grant.project.id, name: repository },
          digest,
          content,
          manifest,
          tags,
          conditions: request.conditions,
          sparse: deps.sparse,
          actor: {
            username: caller.kind === 'anonymous' ? '' : caller.name,
            address: request.address,
          },
        },
        new Date(),
      )
      deps.invalidate([
        `manifest:${stored.id}:${digest}`,
        ...tags.map((tag) => `tag:${stored.id}:${tag}`),
      ])
      return {
        digest,
        subject: manifest.subject?.digest,
        tags: reference.kind === 'digest' ? tags : [],
      }
    },
  }
}

function refuseReference(text: string): never {
  if (text.includes(':')) throw digestInvalid()
  throw tagInvalid()
}

function parseTags(texts: readonly string[]): readonly Tag[] {
  const tags = [...new Set(texts)]
  if (tags.length > maxTags) {
    throw new OciError('TAG_INVALID', `at most ${maxTags} tags may be set at once`, { status: 414 })
  }
  return tags.map((tag) => {
    if (isTag(tag)) return tag
    throw tagInvalid()
  })
}

function tagInvalid(): OciError {
  return new OciError(
    'TAG_INVALID',
    'a tag has 1 to 128 letters, digits and . _ -, and does not begin with . or -',
  )
}

/** A push by digest proves it; a tag points at the sha256. */
function checkDigest(content: Buffer, reference: Reference): Digest {
  if (reference.kind === 'tag') return digestOf(content)
  const digest = digestOf(content, algorithmOf(reference.digest))
  if (digest === reference.digest) return digest
  throw new OciError('DIGEST_INVALID', `the manifest's digest is ${digest}`, {
    detail: { digest: reference.digest },
  })
}

/** JSON may hold NUL in a string; media types may not, and PostgreSQL takes none in a text. [RFC 6838 §4.2] */
function refuseNul(manifest: Manifest): void {
  const { config, layers, manifests, artifactType } = manifest
  const types = [
    artifactType,
    ...[...(config === undefined ? [] : [config]), ...layers, ...manifests].map(
      (descriptor) => descriptor.mediaType,
    ),
  ]
  if (types.some((type) => type?.includes('\0'))) {
    throw new OciError('MANIFEST_INVALID', 'a media type may not hold a NUL character')
  }
}
