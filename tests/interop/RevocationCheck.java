// What Java's own PKIX validator says of a server certificate, with its status from OCSP or from CRLs.
//
// java -Dcom.sun.security.enableCRLDP=true RevocationCheck.java ROOT CHAIN HOW:LEAF...
//
// HOW is "ocsp" (the leaf alone: an intermediate has a CRL only) or "crl" (leaf and intermediate). One line for each LEAF:
// "HOW LEAF good", or "HOW LEAF" with Java's reason. There is no fallback from one to the other, and no soft failure.

import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.cert.CertPath;
import java.security.cert.CertPathValidator;
import java.security.cert.CertPathValidatorException;
import java.security.cert.CertificateFactory;
import java.security.cert.CertificateRevokedException;
import java.security.cert.PKIXParameters;
import java.security.cert.PKIXRevocationChecker;
import java.security.cert.PKIXRevocationChecker.Option;
import java.security.cert.TrustAnchor;
import java.security.cert.X509Certificate;
import java.util.EnumSet;
import java.util.List;
import java.util.Set;

public final class RevocationCheck {
    public static void main(String[] arguments) throws Exception {
        X509Certificate root = read(arguments[0]);
        X509Certificate intermediate = read(arguments[1]);
        for (int i = 2; i < arguments.length; i++) {
            String[] question = arguments[i].split(":", 2);
            System.out.println(question[0] + " " + question[1] + " " + ask(question[0], read(question[1]), intermediate, root));
        }
    }

    private static String ask(String how, X509Certificate leaf, X509Certificate intermediate, X509Certificate root)
            throws Exception {
        CertPathValidator validator = CertPathValidator.getInstance("PKIX");
        PKIXRevocationChecker checker = (PKIXRevocationChecker) validator.getRevocationChecker();
        checker.setOptions(how.equals("ocsp")
                ? EnumSet.of(Option.NO_FALLBACK, Option.ONLY_END_ENTITY)
                : EnumSet.of(Option.NO_FALLBACK, Option.PREFER_CRLS));
        PKIXParameters parameters = new PKIXParameters(Set.of(new TrustAnchor(root, null)));
        parameters.addCertPathChecker(checker);
        CertPath path = CertificateFactory.getInstance("X.509").generateCertPath(List.of(leaf, intermediate));
        try {
            validator.validate(path, parameters);
            return "good";
        } catch (CertPathValidatorException refusal) {
            if (refusal.getCause() instanceof CertificateRevokedException revoked) {
                return "revoked " + revoked.getRevocationReason();
            }
            return "refused: " + refusal.getReason() + ": " + refusal.getMessage();
        }
    }

    private static X509Certificate read(String path) throws Exception {
        try (InputStream stream = Files.newInputStream(Path.of(path))) {
            return (X509Certificate) CertificateFactory.getInstance("X.509").generateCertificate(stream);
        }
    }
}
