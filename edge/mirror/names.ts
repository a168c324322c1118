import { parseManifest, requiredBlobs, type Descriptor } from '../../shared/oci/manifest.ts'

/** What a manifest names: of an image its config and layers, foreign ones excepted, of an index its children. */
export interface Names {
  readonly blobs: readonly Descriptor[]
  readonly manifests: readonly Descriptor[]
}

const nothing: Names = { blobs: [], manifests: [] }

/** Of a document that is no manifest, which an upstream may have and which is passed on as it is: nothing. */
export function namesOf(bytes: Buffer): Names {
  try {
    const manifest = parseManifest(bytes, undefined)
    return { blobs: requiredBlobs(manifest), manifests: manifest.manifests }
  } catch {
    return nothing
  }
}
