import type { Digest } from '../../shared/oci/digest.ts'
import type { Reference, RepositoryName } from '../../shared/oci/reference.ts'
import type { Caller } from '../accounts/caller.ts'
import type { AuditActor } from '../store/audit.ts'
import type { Manifests } from '../store/manifests.ts'
import type { StoredBlobs } from '../store/stored-blobs.ts'
import type { Tags } from '../store/tags.ts'
import type { Access } from './access.ts'
import { blobUnknown, digestInvalid, knownRepository, manifestUnknown } from './pull.ts'

export interface DeleteDeps {
  readonly access: Access
  readonly manifests: Manifests
  readonly tags: Tags
  readonly storedBlobs: StoredBlobs
  /** Drops what caches hold of these subjects. */
  readonly invalidate: (subjects: readonly string[]) => void
}

interface Target {
  readonly caller: Caller
  readonly repository: RepositoryName
}

export type Delete = ReturnType<typeof createDelete>

/** What a client may take away. [distribution-spec, Content Management] */
export function createDelete(deps: DeleteDeps) {
  const { access, manifests, tags, storedBlobs, invalidate } = deps
  return {
    /**
     * A tag is only taken off its manifest; a digest takes the manifest and all tags on it. [end-9]
     * @throws OciError MANIFEST_UNKNOWN, DIGEST_INVALID, or a refusal of `allow`
     */
    async manifest({
      caller,
      repository,
      reference,
      text,
      address,
    }: Target & {
      readonly reference: Reference | undefined
      readonly text: string
      readonly address: string
    }): Promise<void> {
      const grant = await access.allow({ caller, repository, action: 'delete' })
      if (reference === undefined && text.includes(':')) throw digestInvalid()
      const known = knownRepository(grant, repository)
      if (reference === undefined) throw manifestUnknown(repository)
      const actor = actorOf(caller, address)
      const now = new Date()
      if (reference.kind === 'tag') {
        const { tag } = reference
        const removed = await tags.remove({ repository: known, tag, actor }, now)
        if (!removed) throw manifestUnknown(repository)
        invalidate([`tag:${known.id}:${tag}`])
        return
      }
      const { digest } = reference
      const removed = await manifests.remove({ repository: known, digest, actor }, now)
      if (removed === undefined) throw manifestUnknown(repository)
      invalidate([
        `manifest:${known.id}:${digest}`,
        ...removed.tags.map((tag) => `tag:${known.id}:${tag}`),
      ])
    },

    /**
     * Takes a blob from this repository; a manifest that needs it keeps it. [end-10]
     * @throws OciError BLOB_UNKNOWN, DIGEST_INVALID, UNSUPPORTED, or a refusal of `allow`
     */
    async blob({
      caller,
      repository,
      digest,
    }: Target & { readonly digest: Digest | undefined }): Promise<void> {
      const grant = await access.allow({ caller, repository, action: 'delete' })
      if (digest === undefined) throw digestInvalid()
      const { repository: known } = grant
      const removed =
        known !== undefined && (await storedBlobs.unlink({ repository: known, digest }, new Date()))
      if (!removed) throw blobUnknown({ repository, digest })
      invalidate([`link:${known.id}:${digest}`])
    },
  }
}

function actorOf(caller: Caller, address: string): AuditActor {
  return { username: caller.kind === 'anonymous' ? '' : caller.name, address }
}
